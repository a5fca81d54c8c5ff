/**
 * Quantizes one linear onto a type of ggml: scales of its blocks and super-blocks first, as ggml's own search finds them, then its codes:
 * ggml's, or by error feedback with those scales.
 */
import type { BlockLinear, CodedLinear } from '../contracts.ts'
import type { Kernels } from '../engine/kernel/pool.ts'
import { roundBlocks } from '../engine/kernel/round-blocks.ts'
import { decodedBlocks } from '../gguf/coded.ts'
import type { RoundedType } from '../gguf/types.ts'
import { type LinearJob, quantizeLinear } from './quantize-linear.ts'

export interface RoundedBlocks {
  readonly quantized: BlockLinear | CodedLinear
  /** As RoundedLinear.loss. */
  readonly loss: number | undefined
}

/**
 * @param job with the type's grid, group and storage; without a weighting ggml weighs by the weights themselves
 * @throws QuantizeError as roundBlocks and quantizeLinear
 */
export const quantizeBlocks = async (kernels: Kernels, type: RoundedType, job: LinearJob): Promise<RoundedBlocks> => {
  const blocks = await roundBlocks(kernels, job, type, job.weighting)
  const rounded: BlockLinear = { decode: 'blocks', out: job.out, in: job.in, type, blocks }
  if (job.rounding.name === 'nearest') return { quantized: rounded, loss: undefined }
  const given = decodedBlocks(rounded)
  const { quantized, loss } = await quantizeLinear(kernels, { ...job, given })
  return { quantized: { ...quantized, superBlocks: given.superBlocks }, loss }
}
