/**
 * Quantizes one linear onto a type of ggml: scales of its blocks and super-blocks first, as ggml's own search finds them, then its codes:
 * ggml's, or by error feedback with those scales.
 */
import type { BlockLinear, CodedLinear } from '../contracts.ts'
import type { Matrix } from '../engine/kernel/panels.ts'
import type { Kernels } from '../engine/kernel/pool.ts'
import { roundBlocks } from '../engine/kernel/round-blocks.ts'
import { decodedBlocks } from '../gguf/coded.ts'
import { schemeOfType, storageOfType } from '../gguf/scheme.ts'
import type { RoundedType } from '../gguf/types.ts'
import { gridNamed } from './grid/index.ts'
import { type LinearRounding, quantizeLinear } from './quantize-linear.ts'

export interface BlocksJob extends Matrix {
  readonly type: RoundedType
  readonly rounding: LinearRounding
  /** [in]: what a squared error of each column counts; without it ggml weighs by the weights themselves. */
  readonly importances?: Float32Array
}

export interface RoundedBlocks {
  readonly quantized: BlockLinear | CodedLinear
  /** As RoundedLinear.loss. */
  readonly loss: number | undefined
}

/** @throws QuantizeError as roundBlocks and quantizeLinear */
export const quantizeBlocks = async (kernels: Kernels, job: BlocksJob): Promise<RoundedBlocks> => {
  const { type, rounding, importances, ...matrix } = job
  const { out, in: inputs } = matrix
  const blocks = await roundBlocks(kernels, matrix, type, importances)
  const rounded: BlockLinear = { decode: 'blocks', out, in: inputs, type, blocks }
  if (rounding.name === 'nearest') return { quantized: rounded, loss: undefined }
  const { grid, bits, symmetric, group } = schemeOfType(type)
  const given = decodedBlocks(rounded)
  const { quantized, loss } = await quantizeLinear(kernels, {
    ...matrix,
    grid: gridNamed(grid, bits, symmetric),
    clip: 'minmax',
    group,
    storage: storageOfType(type),
    rounding,
    given,
  })
  return { quantized: { ...quantized, superBlocks: given.superBlocks }, loss }
}
