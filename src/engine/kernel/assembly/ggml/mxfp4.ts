/** MXFP4: quantize_row_mxfp4_ref. */
import { extreme, narrow } from './lanes'
import { packNibbles } from './pack'
import { CODES } from './scratch'

/** ⌊log2f(x)⌋ of x > 0: where x lies so close below 2^k that its logarithm rounds to k, that is k. */
function exponentOf(x: f32): i32 {
  const bits = reinterpret<u32>(x)
  const exponent = bits >= 0x00800000 ? <i32>(bits >> 23) - 127 : -118 - clz(bits)
  const k = exponent + 1
  if (k === 0) return exponent // floats are dense below 0
  const whole = <f32>k
  const below = reinterpret<f32>(reinterpret<u32>(whole) + (k > 0 ? -1 : 1))
  const power = reinterpret<f64>((<u64>(1023 + k)) << 52)
  const distance = (1 - <f64>x / power) * Math.LOG2E // log2(1 − t) ≈ −t / ln 2
  return distance < <f64>(whole - below) / 2 ? k : exponent
}

/** The nearest of E2M1 in steps of 2 · half, the smaller of two that are as near. */
function nearestCodes(v: v128, half: f32): v128 {
  const size = f32x4.abs(v)
  let code = f32x4.gt(size, f32x4.splat(<f32>0.5 * half))
  code = i32x4.add(code, f32x4.gt(size, f32x4.splat(<f32>1.5 * half)))
  code = i32x4.add(code, f32x4.gt(size, f32x4.splat(<f32>2.5 * half)))
  code = i32x4.add(code, f32x4.gt(size, f32x4.splat(<f32>3.5 * half)))
  code = i32x4.add(code, f32x4.gt(size, f32x4.splat(<f32>5 * half)))
  code = i32x4.add(code, f32x4.gt(size, f32x4.splat(<f32>7 * half)))
  code = i32x4.neg(i32x4.add(code, f32x4.gt(size, f32x4.splat(<f32>10 * half))))
  const negative = v128.and(f32x4.lt(v, f32x4.splat(0)), i32x4.gt_s(code, i32x4.splat(0)))
  return v128.or(code, v128.and(negative, i32x4.splat(8)))
}

/** The exponent, two below that of the largest, is a byte that wraps for blocks below 2^-125, all codes of which are 0. */
export function roundMxfp4(x: usize, scratch: usize, out: usize): void {
  const most = abs(extreme(x, 32))
  const exponent: i32 = most > 0 ? (exponentOf(most) + 125) & 255 : 0
  // 2^(e − 128): half of the scale, since the table is doubled
  const half = exponent < 2 ? reinterpret<f32>((<u32>0x00200000) << exponent) : reinterpret<f32>((exponent - 1) << 23)
  store<u8>(out, exponent)
  for (let i: usize = 0; i < 128; i += 64) {
    const a = nearestCodes(v128.load(x + i), half)
    const b = nearestCodes(v128.load(x + i, 16), half)
    const c = nearestCodes(v128.load(x + i, 32), half)
    const d = nearestCodes(v128.load(x + i, 48), half)
    v128.store(scratch + CODES + (i >> 2), narrow(a, b, c, d))
  }
  packNibbles(scratch + CODES, 32, 16, out + 1)
}
