/** IQ4_NL and IQ4_XS: quantize_row_iq4_nl_impl with 7 tries, four sub-blocks of 32 side by side. */
import { MAGIC } from '../simd'
import { extreme, extremes, interleave } from './lanes'
import { nearest, storeHalf } from './numbers'
import { packNibbles } from './pack'
import { CODE_TABLE, CODES, LEVEL_TABLE, SCALES, SUM_L2, SUM_XL, VALUES, WEIGHTS } from './scratch'
import { sumOfSquares, sumsOfSquares, weighByImportance, weighBySquare } from './weigh'

const TINY: f32 = 1e-15
const TRIES: i32 = 7

/** kvalues_iq4nl by code. No memory, since the module has no data. */
function level(code: i32): i32 {
  const low = code < 4 ? 0xbfad9881 : code < 8 ? 0xf6eaddcf : code < 12 ? 0x26190d01 : 0x71594535
  return <i32>(<i8>(low >> (8 * (code & 3))))
}

/** Levels and codes of ⌊2x⌋: two levels meet at a whole or a half, where the upper one is taken (best_index_int8). */
export function fillTables(scratch: usize): void {
  let code = 0
  for (let twice = -256; twice < 256; twice++) {
    while (code < 15 && twice >= level(code) + level(code + 1)) code++
    const i = <usize>(twice + 256)
    store<f32>(scratch + (i << 2), <f32>level(code), LEVEL_TABLE)
    store<u8>(scratch + i, code, CODE_TABLE)
  }
}

/** ⌊2x⌋ of twice x, cut to −256 … 255, as places in a table of entries of 1 << shift bytes; NaN goes to the last, as in ggml. */
function places(twice: v128, shift: i32): v128 {
  const cut = f32x4.pmax(f32x4.pmin(f32x4.splat(255), f32x4.floor(twice)), f32x4.splat(-256))
  const index = i32x4.sub(f32x4.add(cut, f32x4.splat(MAGIC)), i32x4.splat(0x4b400000 - 256))
  return i32x4.shl(index, shift)
}

/** Levels nearest to half of `twice`. */
function levels(twice: v128, scratch: usize): v128 {
  const at = places(twice, 2)
  let found = v128.load32_zero(scratch + <usize>i32x4.extract_lane(at, 0), LEVEL_TABLE)
  found = v128.load32_lane(scratch + <usize>i32x4.extract_lane(at, 1), found, 1, LEVEL_TABLE)
  found = v128.load32_lane(scratch + <usize>i32x4.extract_lane(at, 2), found, 2, LEVEL_TABLE)
  return v128.load32_lane(scratch + <usize>i32x4.extract_lane(at, 3), found, 3, LEVEL_TABLE)
}

/** Sums of the levels nearest to inverse · x. */
function fitLevels(inverse: v128, scratch: usize): void {
  const twice = f32x4.add(inverse, inverse)
  let xq = f32x4.splat(0)
  let q2 = f32x4.splat(0)
  for (let i: usize = 0; i < 512; i += 16) {
    const v = v128.load(scratch + i, VALUES)
    const q = levels(f32x4.mul(twice, v), scratch)
    const wq = f32x4.mul(v128.load(scratch + i, WEIGHTS), q)
    xq = f32x4.add(xq, f32x4.mul(wq, v))
    q2 = f32x4.add(q2, f32x4.mul(wq, q))
  }
  v128.store(scratch, xq, SUM_XL)
  v128.store(scratch, q2, SUM_L2)
}

/** Scales of VALUES with WEIGHTS, f32x4 [32] each. */
function searchLevels(scratch: usize): v128 {
  const most = extremes(scratch + VALUES, 32)
  const lowest = f32x4.splat(-127)
  fitLevels(f32x4.div(f32x4.splat(1), f32x4.div(f32x4.neg(most), lowest)), scratch)
  let sumXq = v128.load(scratch, SUM_XL)
  let sumQ2 = v128.load(scratch, SUM_L2)
  let d = v128.and(f32x4.div(sumXq, sumQ2), f32x4.gt(sumQ2, f32x4.splat(0)))
  let best = f32x4.mul(d, sumXq)
  for (let k = -TRIES; k <= TRIES; k++) {
    fitLevels(f32x4.div(f32x4.splat(<f32>k + <f32>-127), most), scratch)
    sumXq = v128.load(scratch, SUM_XL)
    sumQ2 = v128.load(scratch, SUM_L2)
    const gain = f32x4.gt(f32x4.mul(sumXq, sumXq), f32x4.mul(best, sumQ2))
    const better = v128.and(gain, f32x4.gt(sumQ2, f32x4.splat(0)))
    d = v128.bitselect(f32x4.div(sumXq, sumQ2), d, better)
    best = v128.bitselect(f32x4.mul(d, sumXq), best, better)
  }
  return v128.andnot(d, f32x4.lt(f32x4.abs(most), f32x4.splat(TINY)))
}

/** Codes of 32 values. */
function encode(x: usize, scale: f32, scratch: usize, codes: usize): void {
  const inverse: f32 = scale !== 0 ? <f32>1 / scale : 0
  const twice = f32x4.splat(inverse + inverse)
  for (let i: usize = 0; i < 32; i += 4) {
    const at = places(f32x4.mul(twice, v128.load(x + (i << 2))), 0)
    store<u8>(codes + i, load<u8>(scratch + <usize>i32x4.extract_lane(at, 0), CODE_TABLE))
    store<u8>(codes + i, load<u8>(scratch + <usize>i32x4.extract_lane(at, 1), CODE_TABLE), 1)
    store<u8>(codes + i, load<u8>(scratch + <usize>i32x4.extract_lane(at, 2), CODE_TABLE), 2)
    store<u8>(codes + i, load<u8>(scratch + <usize>i32x4.extract_lane(at, 3), CODE_TABLE), 3)
  }
}

function weigh(importances: usize, rows: usize, variance: v128, scratch: usize): void {
  if (importances) {
    interleave(importances, 128, rows, 32, scratch + WEIGHTS)
    weighByImportance(scratch + VALUES, 32, variance, scratch + WEIGHTS)
  } else weighBySquare(scratch + VALUES, 32, scratch + WEIGHTS)
}

/** Up to four blocks: x f32 [blocks][32], of one row. */
export function roundIq4Nl(x: usize, importances: usize, blocks: usize, scratch: usize, out: usize): void {
  interleave(x, 128, blocks, 32, scratch + VALUES)
  const variance = f32x4.mul(sumsOfSquares(scratch + VALUES, 32), f32x4.splat(<f32>2 / 32))
  weigh(importances, blocks, variance, scratch)
  v128.store(scratch, searchLevels(scratch), SCALES)
  for (let j: usize = 0; j < blocks; j++, out += 18) {
    const d = load<f32>(scratch + (j << 2), SCALES)
    storeHalf(out, d)
    encode(x + (j << 7), d, scratch, scratch + CODES)
    packNibbles(scratch + CODES, 32, 16, out + 2)
  }
}

export function roundIq4Xs(x: usize, importances: usize, scratch: usize, out: usize): void {
  const scales = scratch + SCALES
  const variance = f32x4.splat(sumOfSquares(x, 256) * (<f32>2 / 256))
  for (let four: usize = 0; four < 2; four++) {
    interleave(x + (four << 9), 128, 4, 32, scratch + VALUES)
    weigh(importances ? importances + (four << 9) : 0, 4, variance, scratch)
    v128.store(scales + (four << 4), searchLevels(scratch))
  }
  const d = -extreme(scales, 8) / 32
  const inverse: f32 = d !== 0 ? <f32>1 / d : 0
  storeHalf(out, d)
  let low: u32 = 0
  let high: u32 = 0
  for (let j: usize = 0; j < 8; j++) {
    const l = min(31, max(-32, nearest(inverse * load<f32>(scales + (j << 2)))))
    encode(x + (j << 7), d * <f32>l, scratch, scratch + CODES + 32 * j)
    const code = <u32>(l + 32)
    low |= (code & 15) << (4 * <u32>j)
    high |= (code >> 4) << (2 * <u32>j)
  }
  store<u16>(out, high, 2)
  store<u32>(out, low, 4)
  packNibbles(scratch + CODES, 256, 16, out + 8)
}
