/** AWQ's clip search (arXiv 2306.00978; AutoAWQ, quantize/quantizer.py), on the blocks of the Gram matrix instead of on tokens. */
import type { Kernels } from '../engine/kernel/pool.ts'
import { diagonalBlocks, groupErrors } from '../engine/ort/group-error.ts'
import type { Engine } from '../engine/ort/session.ts'
import { codedParameters } from './encoder.ts'
import { granularity } from './granularity.ts'
import { type Change, nearestErrors } from './nearest-errors.ts'
import type { LinearJob } from './quantize-linear.ts'

/** Shares of a group's largest magnitude that are tried, in twentieths: 1, 0.95 … 0.55. */
const steps = 10
const share = (step: number): number => 1 - step / 20

/**
 * Scales and offsets of every group: those of the cut that changes the group's own part of the outputs least, of two alike the weaker cut.
 * @param job with groups of columns, or whole rows, and finite weights
 * @param gram [in, in] of what the linear reads
 */
export const searchClip = async (
  engine: Engine,
  kernels: Kernels,
  job: LinearJob,
  gram: Float32Array,
): Promise<NonNullable<LinearJob['given']>> => {
  const { out, in: inputs, grid, storage } = job
  const { size, groups } = granularity(job.group, inputs)
  const blocks = diagonalBlocks(gram, inputs, size)
  const plain: LinearJob = { ...job, rounding: { name: 'nearest' } }
  // codes are those of the weights themselves, which may lie beyond the cut: AutoAWQ rounds the cut ones
  const cuts = Array.from(
    { length: steps },
    (_, step): Change => (step === 0 ? { name: 'none' } : { name: 'cut', share: share(step) }),
  )
  const least = new Float32Array(out * groups).fill(Number.POSITIVE_INFINITY)
  const best = { scales: new Float32Array(out * groups), offsets: new Float32Array(out * groups) }
  await nearestErrors(kernels, plain, cuts, async ({ delta, scales, offsets, firstRow, rows, changes }) => {
    const stack = changes * rows
    const errors = await groupErrors(engine, delta, stack, blocks, size)
    for (let change = 0; change < changes; change++)
      for (let row = 0; row < rows; row++)
        for (let group = 0; group < groups; group++) {
          const at = (firstRow + row) * groups + group
          const from = change * rows + row
          const error = errors[group * stack + from]
          if (!(error < least[at])) continue
          least[at] = error
          best.scales[at] = scales[from * groups + group]
          best.offsets[at] = offsets[from * groups + group]
        }
  })
  return codedParameters(grid, storage, best)
}
