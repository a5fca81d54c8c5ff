/** Rows of weights into ggml's blocks, as ggml's own reference rounding does, byte for byte. */
import { widen } from '../widen'
import { fillTables, roundIq4Nl, roundIq4Xs } from './iq4'
import { roundMxfp4 } from './mxfp4'
import { roundAffine, roundBytes, roundSymmetric } from './plain32'
import { SCRATCH_BYTES } from './scratch'
import { sumOfSquares } from './weigh'
import { roundAffineWeighted, roundSymmetricWeighted } from './weighted32'
import { roundQ2K, roundQ4K, roundQ5K } from './with-minima'
import { roundQ3K, roundQ6K } from './without-minima'

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

/** A block whose weights see no others. */
function roundPlain(type: i32, x: usize, scratch: usize, out: usize): void {
  if (type === 2) roundSymmetric(4, x, scratch, out)
  else if (type === 3) roundAffine(4, x, scratch, out)
  else if (type === 6) roundSymmetric(5, x, scratch, out)
  else if (type === 7) roundAffine(5, x, scratch, out)
  else if (type === 8) roundBytes(x, out)
  else roundMxfp4(x, scratch, out)
}

function roundSuperBlock(type: i32, x: usize, importances: usize, scratch: usize, out: usize): void {
  if (type === 10) roundQ2K(x, importances, scratch, out)
  else if (type === 11) roundQ3K(x, importances, scratch, out)
  else if (type === 12) roundQ4K(x, importances, scratch, out)
  else if (type === 13) roundQ5K(x, importances, scratch, out)
  else if (type === 14) roundQ6K(x, importances, scratch, out)
  else roundIq4Xs(x, importances, scratch, out)
}

/** Up to four blocks of 32 of a row. */
function roundFour(
  type: i32,
  x: usize,
  importances: usize,
  variance: f32,
  blocks: usize,
  scratch: usize,
  out: usize,
): void {
  if (type === 2) roundSymmetricWeighted(4, x, importances, variance, blocks, scratch, out)
  else if (type === 3) roundAffineWeighted(4, x, importances, variance, blocks, scratch, out)
  else if (type === 6) roundSymmetricWeighted(5, x, importances, variance, blocks, scratch, out)
  else if (type === 7) roundAffineWeighted(5, x, importances, variance, blocks, scratch, out)
  else roundIq4Nl(x, importances, blocks, scratch, out)
}

function roundRow(
  type: i32,
  block: usize,
  blockBytes: usize,
  x: usize,
  n: usize,
  importances: usize,
  scratch: usize,
  out: usize,
): void {
  if (block === 256)
    for (let i: usize = 0; i < n; i += 256, out += blockBytes)
      roundSuperBlock(type, x + (i << 2), importances ? importances + (i << 2) : 0, scratch, out)
  else if (type === 20 || (importances && type < 8)) {
    const variance: f32 = importances ? sumOfSquares(x, n) / <f32>n : 0
    for (let i: usize = 0; i < n; i += 128, out += 4 * blockBytes) {
      const blocks = min<usize>(4, (n - i) / 32)
      roundFour(type, x + (i << 2), importances ? importances + (i << 2) : 0, variance, blocks, scratch, out)
    }
  } else for (let i: usize = 0; i < n; i += 32, out += blockBytes) roundPlain(type, x + (i << 2), scratch, out)
}

/**
 * `source` [rows][n] of dtype 0 bf16, 1 f16, 2 f32; `type` ggml's number, whose blocks have `block` weights and `blockBytes` bytes; `importances` f32 [n] or 0;
 * `out` takes rows · n / block blocks. `scratch`: 4736 bytes and n floats.
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
  const outBytes = (n / block) * blockBytes
  if (type === 20 || type === 23) fillTables(scratch)
  for (let r: usize = 0; r < rows; r++) {
    if (!widenRow(dtype, source + r * rowBytes, n, row)) return r + 1
    roundRow(type, block, blockBytes, row, n, importances, scratch, out + r * outBytes)
  }
  return 0
}
