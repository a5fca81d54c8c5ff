/** Super-blocks of 256 weights: quantize_row_q2_K_ref and its kin, and with importances quantize_row_q2_K_impl and its kin. */
import { clampTo, nearest, storeHalf } from './numbers'
import { packNibbles, packPairs, packRunBits, packSixBitPairs, packSixBits } from './pack'
import { CODES, MIN_CODES, MINIMA, SCALE_CODES, SCALES, SUMS, TRIAL, WEIGHTS } from './scratch'
import { extreme, minimum, searchAffine, searchMoves, searchPositive, searchSymmetric } from './search'
import { sumOfSquares, weighByImportance, weighByMagnitude } from './weigh'

function largest(x: usize, n: usize): f32 {
  let found: f32 = 0
  for (let i: usize = 0; i < n; i++) if (load<f32>(x + (i << 2)) > found) found = load<f32>(x + (i << 2))
  return found
}

/** Codes of scales (or minima) in steps of the largest over `most`; the step, stored as F16. Returns the stored one. */
function quantizeParameters(x: usize, n: usize, most: f32, codes: usize, out: usize): f32 {
  const top = largest(x, n)
  const inverse = top > 0 ? most / top : 0
  for (let j: usize = 0; j < n; j++) {
    const code = nearest(inverse * load<f32>(x + (j << 2)))
    store<u8>(codes + j, <u8>(code > most ? most : code))
  }
  return storeHalf(out, top / most)
}

/** Codes of a sub-block again, by the scale and minimum that are stored; they stay as the search left them where the scale is 0. */
function recode(x: usize, n: usize, scale: f32, min: f32, low: f32, high: f32, codes: usize): void {
  if (scale === 0) return
  for (let i: usize = 0; i < n; i++) {
    const l = clampTo(nearest((load<f32>(x + (i << 2)) + min) / scale), low, high)
    store<u8>(codes + i, <u8>(l - low))
  }
}

/**
 * Q2_K, Q4_K, Q5_K: sub-blocks with minima.
 * @param n weights of a sub-block; @param most largest code of scales; @param dAt place of d, dmin behind it; codes of all are left in scratch
 */
function roundWithMinima(
  bits: i32,
  n: usize,
  most: i32,
  x: usize,
  importances: usize,
  scratch: usize,
  dAt: usize,
): void {
  const levels = (1 << bits) - 1
  const count: usize = 256 / n
  const weights = scratch + WEIGHTS
  const variance = importances ? ((bits === 2 ? <f32>1 : <f32>2) * sumOfSquares(x, 256)) / 256 : 0
  for (let j: usize = 0; j < count; j++) {
    const from = x + ((j * n) << 2)
    const codes = scratch + CODES + j * n
    let scale: f32
    if (importances) {
      const sum = weighByImportance(from, importances + ((j * n) << 2), variance, n, weights)
      store<f32>(scratch + SUMS + (j << 2), sum)
      scale = searchAffine(n, levels, from, weights, codes, scratch + TRIAL, -0.9, 0.05, 36, false)
    } else if (bits === 2) {
      weighByMagnitude(from, 0, n, weights)
      scale = searchAffine(n, levels, from, weights, codes, scratch + TRIAL, -0.5, 0.1, 15, true)
    } else {
      weighByMagnitude(from, sqrt<f32>(sumOfSquares(from, n) / <f32>n), n, weights)
      const first: f32 = bits === 4 ? -1 : -0.5
      scale = searchAffine(n, levels, from, weights, codes, scratch + TRIAL, first, 0.1, bits === 4 ? 20 : 15, false)
    }
    store<f32>(scratch + SCALES + (j << 2), scale)
    store<f32>(scratch + MINIMA + (j << 2), minimum)
  }
  const scaleCodes = scratch + SCALE_CODES
  const minCodes = scratch + MIN_CODES
  let d: f32
  let dmin: f32
  if (importances) {
    d = storeHalf(dAt, searchPositive(count, most, scratch + SCALES, scaleCodes, scratch + SUMS))
    dmin = storeHalf(dAt + 2, searchPositive(count, most, scratch + MINIMA, minCodes, scratch + SUMS))
  } else {
    d = quantizeParameters(scratch + SCALES, count, <f32>most, scaleCodes, dAt)
    dmin = quantizeParameters(scratch + MINIMA, count, <f32>most, minCodes, dAt + 2)
  }
  for (let j: usize = 0; j < count; j++) {
    const scale = d * <f32>load<u8>(scaleCodes + j)
    const min = dmin * <f32>load<u8>(minCodes + j)
    recode(x + ((j * n) << 2), n, scale, min, 0, <f32>levels, scratch + CODES + j * n)
  }
}

export function roundQ2K(x: usize, importances: usize, scratch: usize, out: usize): void {
  roundWithMinima(2, 16, 15, x, importances, scratch, out + 80)
  for (let j: usize = 0; j < 16; j++)
    store<u8>(out + j, load<u8>(scratch + SCALE_CODES + j) | (load<u8>(scratch + MIN_CODES + j) << 4))
  packPairs(scratch + CODES, 0, out + 16)
}

export function roundQ4K(x: usize, importances: usize, scratch: usize, out: usize): void {
  roundWithMinima(4, 32, 63, x, importances, scratch, out)
  packSixBitPairs(scratch + SCALE_CODES, scratch + MIN_CODES, out + 4)
  packNibbles(scratch + CODES, 256, 32, out + 16)
}

export function roundQ5K(x: usize, importances: usize, scratch: usize, out: usize): void {
  roundWithMinima(5, 32, 63, x, importances, scratch, out)
  packSixBitPairs(scratch + SCALE_CODES, scratch + MIN_CODES, out + 4)
  packRunBits(scratch + CODES, 4, out + 16)
  packNibbles(scratch + CODES, 256, 32, out + 48)
}

export function roundQ3K(x: usize, importances: usize, scratch: usize, out: usize): void {
  const scales = scratch + SCALES
  const codes = scratch + CODES
  const scaleCodes = scratch + SCALE_CODES
  const variance = (<f32>2 * sumOfSquares(x, 256)) / 256
  for (let j: usize = 0; j < 16; j++) {
    const from = x + (j << 6)
    const into = codes + 16 * j
    let scale: f32
    if (importances) {
      const sum = weighByImportance(from, importances + (j << 6), variance, 16, scratch + WEIGHTS)
      store<f32>(scratch + SUMS + (j << 2), sum)
      scale = searchSymmetric(16, 4, from, into, scratch + WEIGHTS)
    } else scale = searchMoves(16, 4, from, into)
    store<f32>(scales + (j << 2), scale)
  }
  let d: f32 = 0
  if (importances) {
    d = storeHalf(out + 108, searchSymmetric(16, 32, scales, scaleCodes, scratch + SUMS))
  } else {
    const most = extreme(scales, 16)
    const inverse: f32 = most !== 0 ? <f32>-32 / most : 0
    for (let j: usize = 0; j < 16; j++)
      store<u8>(scaleCodes + j, <u8>(clampTo(nearest(inverse * load<f32>(scales + (j << 2))), -32, 31) + 32))
    if (most === 0) memory.fill(scaleCodes, 0, 16) // so that the bytes are zeros
    d = storeHalf(out + 108, most !== 0 ? <f32>1 / inverse : 0)
  }
  packSixBits(scaleCodes, out + 96)
  for (let j: usize = 0; j < 16; j++)
    recode(x + (j << 6), 16, d * <f32>(<i32>load<u8>(scaleCodes + j) - 32), 0, -4, 3, codes + 16 * j)
  packRunBits(codes, 2, out)
  packPairs(codes, 0, out + 32)
}

export function roundQ6K(x: usize, importances: usize, scratch: usize, out: usize): void {
  const scales = scratch + SCALES
  const codes = scratch + CODES
  for (let j: usize = 0; j < 16; j++) {
    const weights: usize = importances ? importances + (j << 6) : 0
    store<f32>(scales + (j << 2), searchSymmetric(16, 32, x + (j << 6), codes + 16 * j, weights))
  }
  const most = extreme(scales, 16)
  if (abs(most) < <f32>1e-15) {
    memory.fill(out, 0, 210)
    return
  }
  const inverse = <f32>-128 / most
  const d = storeHalf(out + 208, <f32>1 / inverse)
  for (let j: usize = 0; j < 16; j++) {
    const code = nearest(inverse * load<f32>(scales + (j << 2)))
    store<i8>(out + 192 + j, <i8>(code > 127 ? <f32>127 : code))
    recode(x + (j << 6), 16, d * <f32>load<i8>(out + 192 + j), 0, -32, 31, codes + 16 * j)
  }
  packNibbles(codes, 256, 64, out)
  packPairs(codes, 4, out + 128)
}
