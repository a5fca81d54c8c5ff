/** Super-blocks of 256 weights whose sub-blocks have minima: quantize_row_q2_K_ref and its kin, quantize_row_q2_K_impl and its kin. */
import { codesByInverse, codesByScale } from './codes'
import { interleave } from './lanes'
import { fromHalf, nearest, storeHalf } from './numbers'
import { packNibbles, packPairs, packRunBits, packSixBitPairs } from './pack'
import {
  CODES,
  INVERSES,
  MIN_CODES,
  MINIMA,
  ORIGINS,
  SCALE_CODES,
  SCALES,
  SUMS,
  THIRD,
  VALUES,
  WEIGHTS,
} from './scratch'
import { searchAffine } from './search-affine'
import { searchPositive } from './search-positive'
import { sumOfSquares, sumsOfSquares, weighByImportance, weighByMagnitude } from './weigh'

/** Codes of scales (or minima) in steps of the largest over `most`; the step, stored as F16. Returns the stored one. */
function quantizeParameters(x: usize, n: usize, most: i32, codes: usize, out: usize): f32 {
  let top: f32 = 0
  for (let j: usize = 0; j < n; j++) if (load<f32>(x + (j << 2)) > top) top = load<f32>(x + (j << 2))
  const inverse: f32 = top > 0 ? <f32>most / top : 0
  for (let j: usize = 0; j < n; j++) store<u8>(codes + j, min(most, nearest(inverse * load<f32>(x + (j << 2)))))
  return storeHalf(out, top / <f32>most)
}

/** Scales and minima of all sub-blocks, four side by side. */
function searchSubBlocks(bits: i32, n: usize, x: usize, importances: usize, scratch: usize): void {
  const most = (1 << bits) - 1
  const weights = scratch + WEIGHTS
  const values = scratch + VALUES
  const variance: f32 = importances ? ((bits === 2 ? <f32>1 : <f32>2) * sumOfSquares(x, 256)) / 256 : 0
  let place: usize = 0
  for (let first: usize = 0; first < 1024; first += n << 4, place += 16) {
    interleave(x + first, n << 2, 4, n, values)
    if (importances) {
      interleave(importances + first, n << 2, 4, n, weights)
      v128.store(scratch + place, weighByImportance(values, n, f32x4.splat(variance), weights), SUMS)
      searchAffine(n, most, -0.9, 0.05, 36, false, scratch, place)
    } else if (bits === 2) {
      weighByMagnitude(values, n, f32x4.splat(0), weights)
      searchAffine(n, most, -0.5, 0.1, 15, true, scratch, place)
    } else {
      const mean = f32x4.div(sumsOfSquares(values, n), f32x4.splat(<f32>n))
      weighByMagnitude(values, n, f32x4.sqrt(mean), weights)
      searchAffine(n, most, bits === 4 ? -1 : -0.5, 0.1, bits === 4 ? 20 : 15, false, scratch, place)
    }
  }
}

/** Scales and minima into codes by search, side by side; d and dmin at `dAt`. */
function searchParameters(count: usize, most: i32, scratch: usize, dAt: usize): void {
  interleave(scratch + SCALES, MINIMA - SCALES, 2, count, scratch + VALUES)
  interleave(scratch + SUMS, 0, 1, count, scratch + WEIGHTS)
  const found = searchPositive(count, most, scratch)
  storeHalf(dAt, f32x4.extract_lane(found, 0))
  storeHalf(dAt + 2, f32x4.extract_lane(found, 1))
  for (let j: usize = 0; j < count; j++) {
    store<u8>(scratch + j, <u8>(<i32>load<f32>(scratch + (j << 4), THIRD)), SCALE_CODES)
    store<u8>(scratch + j, <u8>(<i32>load<f32>(scratch + (j << 4), THIRD + 4)), MIN_CODES)
  }
}

/**
 * Q2_K, Q4_K, Q5_K. Leaves the codes of weights, scales and minima in scratch.
 * @param n weights of a sub-block
 * @param most the largest code of scales
 * @param dAt place of d, dmin behind it
 */
function roundSuperBlock(
  bits: i32,
  n: usize,
  most: i32,
  x: usize,
  importances: usize,
  scratch: usize,
  dAt: usize,
): void {
  const count: usize = 256 / n
  searchSubBlocks(bits, n, x, importances, scratch)
  if (importances) searchParameters(count, most, scratch, dAt)
  else {
    quantizeParameters(scratch + SCALES, count, most, scratch + SCALE_CODES, dAt)
    quantizeParameters(scratch + MINIMA, count, most, scratch + MIN_CODES, dAt + 2)
  }
  const levels = (1 << bits) - 1
  const d = fromHalf(load<u16>(dAt))
  const dmin = fromHalf(load<u16>(dAt, 2))
  for (let j: usize = 0; j < count; j++) {
    const from = x + ((j * n) << 2)
    const codes = scratch + CODES + j * n
    const scale = d * <f32>load<u8>(scratch + j, SCALE_CODES)
    const min = dmin * <f32>load<u8>(scratch + j, MIN_CODES)
    const at = scratch + (j << 2)
    // ggml leaves the codes of the search where the stored scale is 0
    if (scale === 0) codesByInverse(from, n, load<f32>(at, INVERSES), load<f32>(at, ORIGINS), 0, levels, codes)
    else codesByScale(from, n, scale, min, 0, levels, codes)
  }
}

export function roundQ2K(x: usize, importances: usize, scratch: usize, out: usize): void {
  roundSuperBlock(2, 16, 15, x, importances, scratch, out + 80)
  const minima = i8x16.shl(v128.load(scratch, MIN_CODES), 4)
  v128.store(out, v128.or(v128.load(scratch, SCALE_CODES), minima))
  packPairs(scratch + CODES, 0, out + 16)
}

export function roundQ4K(x: usize, importances: usize, scratch: usize, out: usize): void {
  roundSuperBlock(4, 32, 63, x, importances, scratch, out)
  packSixBitPairs(scratch + SCALE_CODES, scratch + MIN_CODES, out + 4)
  packNibbles(scratch + CODES, 256, 32, out + 16)
}

export function roundQ5K(x: usize, importances: usize, scratch: usize, out: usize): void {
  roundSuperBlock(5, 32, 63, x, importances, scratch, out)
  packSixBitPairs(scratch + SCALE_CODES, scratch + MIN_CODES, out + 4)
  packRunBits(scratch + CODES, 4, out + 16)
  packNibbles(scratch + CODES, 256, 32, out + 48)
}
