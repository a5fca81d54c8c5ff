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

/** The largest magnitude of each group of `size` columns, row by row. */
const groupMaxima = (weights: Float32Array, size: number): Float32Array => {
  const maxima = new Float32Array(weights.length / size)
  for (let group = 0, at = 0; group < maxima.length; group++) {
    let most = 0
    for (const end = at + size; at < end; at++) {
      const magnitude = Math.abs(weights[at])
      if (magnitude > most) most = magnitude
    }
    maxima[group] = most
  }
  return maxima
}

/** [out, in] with every weight cut to a share of the largest magnitude of its group. */
const clamped = (weights: Float32Array, maxima: Float32Array, limit: number): Float32Array => {
  const cut = weights.slice()
  const size = weights.length / maxima.length
  for (let group = 0, at = 0; group < maxima.length; group++) {
    const bound = Math.fround(maxima[group] * limit)
    for (const end = at + size; at < end; at++) {
      if (cut[at] > bound) cut[at] = bound
      else if (cut[at] < -bound) cut[at] = -bound
    }
  }
  return cut
}

/** Of parameters that the decoding has: others are empty. */
const take = (from: Float32Array, into: Float32Array, at: number): void => {
  if (into.length > 0) into[at] = from[at]
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
  const maxima = groupMaxima(weights, size)
  const blocks = diagonalBlocks(gram, inputs, size)
  const plain: LinearJob = {
    ...job,
    ...matrixOfValues(job.name, weights, out, inputs),
    rounding: { name: 'nearest' },
  }
  const least = new Float32Array(out * groups).fill(Number.POSITIVE_INFINITY)
  let best: Pick<CodedLinear, 'scales' | 'zeros' | 'biases'> | undefined
  for (let step = 0; step < steps; step++) {
    const cut = step === 0 ? weights : clamped(weights, maxima, share(step))
    const fitted = await quantizeLinear(kernels, {
      ...plain,
      ...matrixOfValues(job.name, cut, out, inputs),
    })
    // codes of the weights themselves, which may lie beyond the cut: AutoAWQ rounds the cut ones
    const { quantized } = step === 0 ? fitted : await quantizeLinear(kernels, { ...plain, given: fitted.quantized })
    best ??= { scales: quantized.scales.slice(), zeros: quantized.zeros.slice(), biases: quantized.biases.slice() }
    await measureRows(kernels, plain, quantized, async ({ delta }, first, rows) => {
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
