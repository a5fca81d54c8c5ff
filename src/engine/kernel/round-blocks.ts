/** ggml's reference rounding of a weight matrix, on all threads. */
import { QuantizeError } from '../../errors.ts'
import { ggmlTypes, type RoundedType } from '../../gguf/types.ts'
import { forEachChunk } from './chunks.ts'
import { dtypeKinds, type Matrix, notFinite, readRows, storedBytes } from './panels.ts'
import type { Kernels } from './pool.ts'

/** Of a call, beside a row: assembly/ggml/scratch.ts. */
const scratchBytes = 4736

/** Weights of a chunk: long against a round trip to a worker (0.1 ms). */
const chunkWeights = 2 ** 19

/**
 * The blocks that ggml_quantize_chunk gives, byte for byte: of a build without fused multiply-add, that is (fixtures/ggml-rounding/make.py).
 * @param matrix whose inputs the type's blocks divide
 * @param importances [in], of the columns: mean squares of what they are multiplied with; none: as llama-quantize does without an imatrix
 * @returns [out, in / block] blocks
 * @throws QuantizeError bad-input naming row and column of a value that is not finite; exhausted
 */
export const roundBlocks = async (
  kernels: Kernels,
  matrix: Matrix,
  type: RoundedType,
  importances?: Float32Array,
): Promise<Uint8Array> => {
  const { out, in: inputs, dtype } = matrix
  const { id, block, bytes } = ggmlTypes[type]
  if (inputs % block !== 0)
    throw new QuantizeError(
      'unsupported',
      `${matrix.name}: ${type} wants inputs of a multiple of ${block}, not ${inputs}`,
    )
  const rowBytes = (inputs / block) * bytes
  const rowsOf = Math.max(1, Math.min(out, Math.floor(chunkWeights / inputs)))
  const blocks = new Uint8Array(out * rowBytes)
  const weighting = importances && kernels.allocate(4 * inputs)
  weighting?.f32().set(importances!)
  const sizes = {
    source: rowsOf * inputs * storedBytes(dtype),
    scratch: scratchBytes + 4 * inputs,
    blocks: rowsOf * rowBytes,
  }
  const starts = Array.from({ length: Math.ceil(out / rowsOf) }, (_, i) => i * rowsOf)
  try {
    await forEachChunk(kernels, starts, sizes, async (regions, firstRow) => {
      const rows = Math.min(rowsOf, out - firstRow)
      readRows(matrix, firstRow, rows, regions.source)
      const shape = [dtypeKinds[dtype], regions.source.address, rows, inputs] as const
      const [bad] = await kernels.run([
        [
          'roundRows',
          id,
          block,
          bytes,
          ...shape,
          weighting?.address ?? 0,
          regions.scratch.address,
          regions.blocks.address,
        ],
      ])
      if (bad) throw notFinite(matrix, firstRow, rows, regions.source)
      blocks.set(regions.blocks.u8().subarray(0, rows * rowBytes), firstRow * rowBytes)
    })
  } finally {
    weighting?.free()
  }
  return blocks
}
