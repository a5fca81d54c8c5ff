/** Blocks of 32 weights: quantize_row_q4_0_ref and its kin, and with importances quantize_row_q4_0_impl and its kin. */
import { storeHalf } from './numbers'
import { packFifthBits, packNibbles } from './pack'
import { CODES, TRIAL, WEIGHTS } from './scratch'
import { extreme, minimum, searchAffine, searchSymmetric } from './search'
import { weighByImportance } from './weigh'

function storeCodes(codes: usize, bits: i32, at: usize): void {
  if (bits === 5) packFifthBits(codes, at)
  packNibbles(codes, 32, 16, bits === 5 ? at + 4 : at)
}

/** Codes of x · inverse + offset, cut off below the point, at most `most`. */
function cutOff(x: usize, first: f32, inverse: f32, offset: f32, most: i32, codes: usize): void {
  for (let i: usize = 0; i < 32; i++) {
    const code = <i32>((load<f32>(x + (i << 2)) - first) * inverse + offset)
    store<u8>(codes + i, min(most, code))
  }
}

/** Q4_0, Q5_0. @param importances 0: none; @param variance mean square of the row */
export function roundSymmetric32(
  bits: i32,
  x: usize,
  importances: usize,
  variance: f32,
  scratch: usize,
  out: usize,
): void {
  const levels = 1 << (bits - 1)
  const codes = scratch + CODES
  if (importances) {
    weighByImportance(x, importances, variance, 32, scratch + WEIGHTS)
    storeHalf(out, searchSymmetric(32, levels, x, codes, scratch + WEIGHTS))
  } else {
    const d = extreme(x, 32) / <f32>-levels
    const inverse = d !== 0 ? <f32>1 / d : 0
    storeHalf(out, d)
    cutOff(x, 0, inverse, <f32>levels + 0.5, 2 * levels - 1, codes)
  }
  storeCodes(codes, bits, out + 2)
}

/** Q4_1, Q5_1. */
export function roundAffine32(
  bits: i32,
  x: usize,
  importances: usize,
  variance: f32,
  scratch: usize,
  out: usize,
): void {
  const levels = (1 << bits) - 1
  const codes = scratch + CODES
  if (importances) {
    const weights = scratch + WEIGHTS
    weighByImportance(x, importances, variance, 32, weights)
    storeHalf(out, searchAffine(32, levels, x, weights, codes, scratch + TRIAL, -0.9, 0.05, 36, false))
    storeHalf(out + 2, -minimum)
  } else {
    let least = load<f32>(x)
    let most = least
    for (let i: usize = 1; i < 32; i++) {
      const v = load<f32>(x + (i << 2))
      if (v < least) least = v
      if (v > most) most = v
    }
    const d = (most - least) / <f32>levels
    const inverse = d !== 0 ? <f32>1 / d : 0
    storeHalf(out, d)
    storeHalf(out + 2, least)
    cutOff(x, least, inverse, 0.5, levels, codes)
  }
  storeCodes(codes, bits, out + 4)
}

/** Q8_0: halves are rounded away from zero. */
export function roundBytes32(x: usize, out: usize): void {
  const d = abs(extreme(x, 32)) / 127
  const inverse = d !== 0 ? <f32>1 / d : 0
  storeHalf(out, d)
  for (let i: usize = 0; i < 32; i++) {
    const scaled = load<f32>(x + (i << 2)) * inverse
    const whole = trunc(scaled)
    const rest = abs(scaled - whole)
    store<i8>(out + 2 + i, <i8>(rest >= 0.5 ? whole + (scaled < 0 ? <f32>-1 : <f32>1) : whole))
  }
}

/** MXFP4: the power of two two below the one of the largest; the nearest of E2M1, the first of equals in the order of codes. */
export function roundMxfp4(x: usize, out: usize, scratch: usize): void {
  const most = abs(extreme(x, 32))
  const e = most > 0 ? <i32>(reinterpret<u32>(most) >> 23) - 2 : 0
  const exponent = max(0, e)
  // 2^(e − 128): half of the scale, since the table is doubled
  const half = exponent < 2 ? reinterpret<f32>((<u32>0x00200000) << exponent) : reinterpret<f32>((exponent - 1) << 23)
  store<u8>(out, exponent)
  const codes = scratch + CODES
  for (let i: usize = 0; i < 32; i++) {
    const v = load<f32>(x + (i << 2))
    let best = 0
    let least = abs(v)
    for (let code = 1; code < 16; code++) {
      const magnitude = code & 7
      const doubled = magnitude < 5 ? magnitude : magnitude === 5 ? 6 : magnitude === 6 ? 8 : 12
      const e = abs(<f32>(code & 8 ? -doubled : doubled) * half - v)
      if (e < least) {
        least = e
        best = code
      }
    }
    store<u8>(codes + i, best)
  }
  packNibbles(codes, 32, 16, out + 1)
}
