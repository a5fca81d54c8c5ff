/** How large the model is before and after. */
import type { Checkpoint, TensorInfo } from '../contracts.ts'
import { isDecoded } from '../decoded-checkpoint.ts'
import type { PlannedLinear } from './linears.ts'

export interface PlanTotals {
  /** Elements of all tensors of the source. */
  readonly weights: number
  /** Weights that are quantized, and what they take in the output, in bits a weight: codes, scales, zeros, indexes. */
  readonly quantizedWeights: number
  readonly bitsPerWeight: number
  /** Bits of all tensor data in the output for each weight of the source. */
  readonly bitsPerWeightOverall: number
  /** Tensor data, in bytes. */
  readonly bytesBefore: number
  readonly bytesAfter: number
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)

export const elements = (tensor: TensorInfo): number => tensor.shape.reduce((product, size) => product * size, 1)

export const totalsOf = (
  checkpoint: Checkpoint,
  linears: readonly PlannedLinear[],
  outputs: readonly TensorInfo[],
): PlanTotals => {
  const sources = [...checkpoint.tensors.values()]
  const weights = sum(sources.map(elements))
  const quantizedWeights = sum(linears.map(({ scheme }) => scheme.out * scheme.in))
  const bytesAfter = sum(outputs.map(({ bytes }) => bytes))
  return {
    weights,
    quantizedWeights,
    bitsPerWeight:
      (8 * sum(linears.flatMap(({ tensors }) => tensors.map(({ bytes }) => bytes)))) / Math.max(1, quantizedWeights),
    bitsPerWeightOverall: (8 * bytesAfter) / weights,
    bytesBefore: isDecoded(checkpoint) ? checkpoint.storedBytes : sum(sources.map(({ bytes }) => bytes)),
    bytesAfter,
  }
}
