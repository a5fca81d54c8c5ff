/** Rows of weights into ggml's blocks, as ggml's own reference rounding does, byte for byte. */
import { widen } from '../widen'
import { roundAffine32, roundBytes32, roundMxfp4, roundSymmetric32 } from './blocks32'
import { roundQ2K, roundQ3K, roundQ4K, roundQ5K, roundQ6K } from './blocks256'
import { roundIq4Nl, roundIq4Xs } from './iq4'
import { SCRATCH_BYTES } from './scratch'
import { sumOfSquares } from './weigh'

/** One row as float32. Returns whether all of it is finite. */
function widenRow(dtype: i32, source: usize, n: usize, into: usize): bool {
  if (dtype === 2) memory.copy(into, source, n << 2)
  else
    for (let i: usize = 0; i < n; i += 4) {
      const stored = v128.load_ext<u16>(source + (i << 1))
      v128.store(into + (i << 2), dtype === 0 ? widen<u16>(stored) : widen<i16>(stored))
    }
  let all = i32x4.splat(0)
  for (let i: usize = 0; i < n; i += 4)
    all = v128.or(all, i32x4.eq(v128.and(v128.load(into + (i << 2)), i32x4.splat(0x7f800000)), i32x4.splat(0x7f800000)))
  return !v128.any_true(all)
}

function roundBlock(type: i32, x: usize, importances: usize, variance: f32, scratch: usize, out: usize): void {
  if (type === 2) roundSymmetric32(4, x, importances, variance, scratch, out)
  else if (type === 3) roundAffine32(4, x, importances, variance, scratch, out)
  else if (type === 6) roundSymmetric32(5, x, importances, variance, scratch, out)
  else if (type === 7) roundAffine32(5, x, importances, variance, scratch, out)
  else if (type === 8) roundBytes32(x, out)
  else if (type === 10) roundQ2K(x, importances, scratch, out)
  else if (type === 11) roundQ3K(x, importances, scratch, out)
  else if (type === 12) roundQ4K(x, importances, scratch, out)
  else if (type === 13) roundQ5K(x, importances, scratch, out)
  else if (type === 14) roundQ6K(x, importances, scratch, out)
  else if (type === 20) roundIq4Nl(x, importances, scratch, out)
  else if (type === 23) roundIq4Xs(x, importances, scratch, out)
  else roundMxfp4(x, out, scratch)
}

/**
 * `source` [rows][n] of dtype 0 bf16, 1 f16, 2 f32; `type` ggml's number, whose blocks have `block` weights and `blockBytes` bytes; `importances` f32 [n] or 0;
 * `out` takes rows · n / block blocks. `scratch`: 1792 bytes and n floats.
 * Returns 1 + the first row with a value that is not finite, or 0.
 */
export function roundRows(
  type: i32,
  block: usize,
  blockBytes: usize,
  dtype: i32,
  source: usize,
  rows: usize,
  n: usize,
  importances: usize,
  scratch: usize,
  out: usize,
): usize {
  const row = scratch + SCRATCH_BYTES
  const rowBytes = n << (dtype === 2 ? 2 : 1)
  for (let r: usize = 0; r < rows; r++) {
    if (!widenRow(dtype, source + r * rowBytes, n, row)) return r + 1
    const variance: f32 = importances ? sumOfSquares(row, n) / <f32>n : 0
    for (let i: usize = 0; i < n; i += block, out += blockBytes)
      roundBlock(type, row + (i << 2), importances ? importances + (i << 2) : 0, variance, scratch, out)
  }
  return 0
}
