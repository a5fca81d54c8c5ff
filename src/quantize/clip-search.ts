/** AWQ's clip search (arXiv 2306.00978; AutoAWQ, quantize/quantizer.py), on the blocks of the Gram matrix instead of on tokens. */
import type { CodedLinear } from '../contracts.ts'
import { measureRows } from '../engine/kernel/measure.ts'
import { matrixOfValues } from '../engine/kernel/panels.ts'
import type { Kernels } from '../engine/kernel/pool.ts'
import { diagonalBlocks, groupErrors } from '../engine/ort/group-error.ts'
import type { Engine } from '../engine/ort/session.ts'
import { granularity } from './granularity.ts'
import { type LinearJob, quantizeLinear } from './quantize-linear.ts'

/** Shares of a group's largest magnitude that are tried, in twentieths: 1, 0.95 … 0.55. */
const steps = 10
const share = (step: number): number => 1 - step / 20

/** [out, in] with every weight cut to a share of the largest magnitude of its group of `size` columns. */
const clamped = (weights: Float32Array, size: number, limit: number): Float32Array => {
  const cut = new Float32Array(weights.length)
  for (let start = 0; start < weights.length; start += size) {
    let most = 0
    for (let i = start; i < start + size; i++) most = Math.max(most, Math.abs(weights[i]))
    const bound = Math.fround(most * limit)
    for (let i = start; i < start + size; i++) cut[i] = Math.min(bound, Math.max(-bound, weights[i]))
  }
  return cut
}

/**
 * Scales and offsets of every group: those of the cut that changes the group's own part of the outputs least, of two alike the weaker cut.
 * @param job with groups of columns, or whole rows
 * @param weights of the job, [out, in], finite
 * @param gram [in, in] of what the linear reads
 */
export const searchClip = async (
  engine: Engine,
  kernels: Kernels,
  job: LinearJob,
  weights: Float32Array,
  gram: Float32Array,
): Promise<NonNullable<LinearJob['given']>> => {
  const { out, in: inputs } = job
  const { size, groups } = granularity(job.group, inputs)
  const blocks = diagonalBlocks(gram, inputs, size)
  const least = new Float32Array(out * groups).fill(Number.POSITIVE_INFINITY)
  let best: Pick<CodedLinear, 'scales' | 'zeros' | 'biases'> | undefined
  for (let step = 0; step < steps; step++) {
    const cut = step === 0 ? weights : clamped(weights, size, share(step))
    const { quantized } = await quantizeLinear(kernels, {
      ...job,
      ...matrixOfValues(job.name, cut, out, inputs),
      rounding: { name: 'nearest' },
    })
    best ??= { scales: quantized.scales.slice(), zeros: quantized.zeros.slice(), biases: quantized.biases.slice() }
    const take = (from: Float32Array, into: Float32Array, at: number): void => {
      if (into.length > 0) into[at] = from[at]
    }
    const original = matrixOfValues(job.name, weights, out, inputs)
    await measureRows(kernels, original, quantized, async ({ delta }, first, rows) => {
      const errors = await groupErrors(engine, delta, rows, blocks, size)
      for (let group = 0; group < groups; group++)
        for (let row = 0; row < rows; row++) {
          const at = (first + row) * groups + group
          const error = errors[group * rows + row]
          if (!(error < least[at])) continue
          least[at] = error
          take(quantized.scales, best!.scales, at)
          take(quantized.zeros, best!.zeros, at)
          take(quantized.biases, best!.biases, at)
        }
    })
  }
  return best!
}
