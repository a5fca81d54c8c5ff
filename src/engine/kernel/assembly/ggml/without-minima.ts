/** Super-blocks of 256 weights in 16 sub-blocks without minima: Q3_K and Q6_K. */
import { codesByInverse, codesByScale } from './codes'
import { extreme, interleave } from './lanes'
import { nearest, storeHalf } from './numbers'
import { packNibbles, packPairs, packRunBits, packSixBits } from './pack'
import { CODES, INVERSES, SCALE_CODES, SCALES, SUMS, THIRD, VALUES, WEIGHTS } from './scratch'
import { searchMoves, searchSymmetric } from './search-symmetric'
import { sumOfSquares, weighByImportance, weighBySquare } from './weigh'

/** Levels of four sub-blocks of 16 as codes of 3 bits. */
function storeMoved(scratch: usize, codes: usize): void {
  for (let i: usize = 0; i < 16; i++)
    for (let lane: usize = 0; lane < 4; lane++) {
      const level = load<f32>(scratch + (i << 4) + (lane << 2), THIRD)
      store<u8>(codes + (lane << 4) + i, <u8>(<i32>level + 4))
    }
}

/** Scales, and the codes of the search. */
function searchQ3K(x: usize, importances: usize, scratch: usize): void {
  const values = scratch + VALUES
  const weights = scratch + WEIGHTS
  const variance = f32x4.splat(importances ? (<f32>2 * sumOfSquares(x, 256)) / 256 : 0)
  for (let four: usize = 0; four < 4; four++) {
    interleave(x + (four << 8), 64, 4, 16, values)
    if (importances) {
      interleave(importances + (four << 8), 64, 4, 16, weights)
      v128.store(scratch + (four << 4), weighByImportance(values, 16, variance, weights), SUMS)
      searchSymmetric(16, 4, scratch, four << 4)
    } else {
      weighBySquare(values, 16, weights)
      searchMoves(16, 4, scratch, four << 4)
      storeMoved(scratch, scratch + CODES + (four << 6))
    }
  }
  if (!importances) return
  for (let j: usize = 0; j < 16; j++)
    codesByInverse(x + (j << 6), 16, load<f32>(scratch + (j << 2), INVERSES), 0, -4, 3, scratch + CODES + (j << 4))
}

/** Scales into codes of 6 bits, 32 for 0. Returns d. */
function quantizeScales(scratch: usize): f32 {
  const most = extreme(scratch + SCALES, 16)
  if (most === 0) {
    memory.fill(scratch + SCALE_CODES, 0, 16) // so that the bytes are zeros
    return 0
  }
  const inverse = <f32>-32 / most
  for (let j: usize = 0; j < 16; j++) {
    const level = min(31, max(-32, nearest(inverse * load<f32>(scratch + (j << 2), SCALES))))
    store<u8>(scratch + j, level + 32, SCALE_CODES)
  }
  return <f32>1 / inverse
}

/** The same by the search of weights. */
function searchScales(scratch: usize): f32 {
  interleave(scratch + SCALES, 0, 1, 16, scratch + VALUES)
  interleave(scratch + SUMS, 0, 1, 16, scratch + WEIGHTS)
  const scales = scratch + SCALE_CODES
  memory.copy(scratch + SUMS, scratch + SCALES, 64)
  searchSymmetric(16, 32, scratch, 0)
  codesByInverse(scratch + SUMS, 16, load<f32>(scratch, INVERSES), 0, -32, 31, scales)
  return load<f32>(scratch, SCALES)
}

export function roundQ3K(x: usize, importances: usize, scratch: usize, out: usize): void {
  searchQ3K(x, importances, scratch)
  const d = storeHalf(out + 108, importances ? searchScales(scratch) : quantizeScales(scratch))
  packSixBits(scratch + SCALE_CODES, out + 96)
  for (let j: usize = 0; j < 16; j++) {
    const scale = d * <f32>(<i32>load<u8>(scratch + j, SCALE_CODES) - 32)
    // ggml leaves the codes of the search where the stored scale is 0
    if (scale !== 0) codesByScale(x + (j << 6), 16, scale, 0, -4, 3, scratch + CODES + (j << 4))
  }
  packRunBits(scratch + CODES, 2, out)
  packPairs(scratch + CODES, 0, out + 32)
}

export function roundQ6K(x: usize, importances: usize, scratch: usize, out: usize): void {
  for (let four: usize = 0; four < 4; four++) {
    interleave(x + (four << 8), 64, 4, 16, scratch + VALUES)
    if (importances) interleave(importances + (four << 8), 64, 4, 16, scratch + WEIGHTS)
    else weighBySquare(scratch + VALUES, 16, scratch + WEIGHTS)
    searchSymmetric(16, 32, scratch, four << 4)
  }
  const most = extreme(scratch + SCALES, 16)
  if (abs(most) < <f32>1e-15) {
    memory.fill(out, 0, 210)
    return
  }
  const inverse = <f32>-128 / most
  const d = storeHalf(out + 208, <f32>1 / inverse)
  for (let j: usize = 0; j < 16; j++) {
    const from = x + (j << 6)
    const codes = scratch + CODES + (j << 4)
    const code = min(127, nearest(inverse * load<f32>(scratch + (j << 2), SCALES)))
    store<i8>(out + j, code, 192)
    const scale = d * <f32>(<i8>code)
    if (scale === 0) codesByInverse(from, 16, load<f32>(scratch + (j << 2), INVERSES), 0, -32, 31, codes)
    else codesByScale(from, 16, scale, 0, -32, 31, codes)
  }
  packNibbles(scratch + CODES, 256, 64, out)
  packPairs(scratch + CODES, 4, out + 128)
}
