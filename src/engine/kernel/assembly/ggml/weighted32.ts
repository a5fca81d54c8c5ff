/** Up to four blocks of 32 weights side by side, with importances: quantize_row_q4_0_impl and its kin. */
import { codesByInverse } from './codes'
import { interleave } from './lanes'
import { storeHalf } from './numbers'
import { storeCodes } from './plain32'
import { CODES, INVERSES, MINIMA, ORIGINS, SCALES, VALUES, WEIGHTS } from './scratch'
import { searchAffine } from './search-affine'
import { searchSymmetric } from './search-symmetric'
import { weighByImportance } from './weigh'

/** @param variance mean square of the row */
function weighBlocks(x: usize, importances: usize, variance: f32, blocks: usize, scratch: usize): void {
  interleave(x, 128, blocks, 32, scratch + VALUES)
  interleave(importances, 128, blocks, 32, scratch + WEIGHTS)
  weighByImportance(scratch + VALUES, 32, f32x4.splat(variance), scratch + WEIGHTS)
}

/** Codes of block j as the search left them. */
function storeBlock(bits: i32, x: usize, j: usize, low: i32, scratch: usize, out: usize): void {
  const inverse = load<f32>(scratch + (j << 2), INVERSES)
  const origin = load<f32>(scratch + (j << 2), ORIGINS)
  codesByInverse(x + (j << 7), 32, inverse, origin, low, low + (1 << bits) - 1, scratch + CODES)
  storeCodes(scratch + CODES, bits, out)
}

/** Q4_0, Q5_0: x f32 [blocks][32], of one row. */
export function roundSymmetricWeighted(
  bits: i32,
  x: usize,
  importances: usize,
  variance: f32,
  blocks: usize,
  scratch: usize,
  out: usize,
): void {
  const levels = 1 << (bits - 1)
  weighBlocks(x, importances, variance, blocks, scratch)
  searchSymmetric(32, levels, scratch, 0)
  for (let j: usize = 0; j < blocks; j++, out += 2 + 4 * bits) {
    storeHalf(out, load<f32>(scratch + (j << 2), SCALES))
    storeBlock(bits, x, j, -levels, scratch, out + 2)
  }
}

/** Q4_1, Q5_1. */
export function roundAffineWeighted(
  bits: i32,
  x: usize,
  importances: usize,
  variance: f32,
  blocks: usize,
  scratch: usize,
  out: usize,
): void {
  weighBlocks(x, importances, variance, blocks, scratch)
  searchAffine(32, (1 << bits) - 1, -0.9, 0.05, 36, false, scratch, 0)
  for (let j: usize = 0; j < blocks; j++, out += 4 + 4 * bits) {
    storeHalf(out, load<f32>(scratch + (j << 2), SCALES))
    storeHalf(out + 2, -load<f32>(scratch + (j << 2), MINIMA))
    storeBlock(bits, x, j, 0, scratch, out + 4)
  }
}
