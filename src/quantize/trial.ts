/** What rounding to nearest would lose, for candidates of a search. */
import type { ClipName, LinearScheme, Storage } from '../contracts.ts'
import { measureRows } from '../engine/kernel/measure.ts'
import { matrixOfValues } from '../engine/kernel/panels.ts'
import type { Kernels } from '../engine/kernel/pool.ts'
import { quadraticForms } from '../engine/ort/output-error.ts'
import type { Engine } from '../engine/ort/session.ts'
import { type Change, nearestErrors } from './nearest-errors.ts'
import { standsByGroup } from './quantize-linear.ts'
import { jobParts, nearest, roundJob } from './stage-rounding.ts'

/** A weight matrix, or several of one scheme behind one tap, row under row. */
export interface TrialLinear {
  /** Of all rows together. */
  readonly scheme: LinearScheme
  readonly storage: Storage
  /** [out, in], finite */
  readonly weights: Float32Array
}

/** Rows that stand by themselves: each can be rounded without the others. */
const isByRow = ({ scheme: { group }, storage }: TrialLinear): boolean =>
  group !== 'tensor' && group !== 'block' && storage.second === undefined

/** Linears whose rows are quantized alike and by themselves as one matrix: fewer, larger steps. Others as they are. */
export const stacked = (linears: readonly TrialLinear[]): readonly TrialLinear[] => {
  const [{ scheme, storage }] = linears
  const key = ({ scheme: { name: _, out: __, ...shared } }: TrialLinear): string => JSON.stringify(shared)
  if (!linears.every(linear => isByRow(linear) && key(linear) === key(linears[0]))) return linears
  const weights = new Float32Array(linears.reduce((length, linear) => length + linear.weights.length, 0))
  let at = 0
  for (const linear of linears) {
    weights.set(linear.weights, at)
    at += linear.weights.length
  }
  return [{ scheme: { ...scheme, out: weights.length / scheme.in }, storage, weights }]
}

/** Every so-many-th row of those that stand by themselves. */
export const sampledRows = (linears: readonly TrialLinear[], every: number): readonly TrialLinear[] =>
  linears.map(linear => {
    const { scheme, weights } = linear
    const { out, in: inputs } = scheme
    if (!isByRow(linear) || out <= every) return linear
    const rows = Math.ceil(out / every)
    const sample = new Float32Array(rows * inputs)
    for (let row = 0; row < rows; row++)
      sample.set(weights.subarray(row * every * inputs, (row * every + 1) * inputs), row * inputs)
    return { ...linear, scheme: { ...scheme, out: rows }, weights: sample }
  })

/** [rows, n]: each column times its factor, in place. */
export const multiplyColumns = (values: Float32Array, factors: Float32Array): Float32Array => {
  const n = factors.length
  for (let start = 0; start < values.length; start += n) for (let i = 0; i < n; i++) values[start + i] *= factors[i]
  return values
}

/**
 * The errors tr(ΔW G ΔWᵀ) of rounding weights to nearest after their columns were multiplied by factors, ΔW that of the weights without them.
 * @param candidates factors [in], positive; absent: 1
 * @param gram [in, in] of the tap as it is
 * @returns one a candidate
 */
export const trialLosses = async (
  engine: Engine,
  kernels: Kernels,
  linears: readonly TrialLinear[],
  candidates: readonly (Float32Array | undefined)[],
  gram: Float32Array,
  clip: ClipName,
  signal?: AbortSignal,
): Promise<readonly number[]> => {
  const losses = candidates.map(() => 0)
  for (const { scheme, storage, weights } of linears) {
    const { out, in: inputs, name, type } = scheme
    const formsOf = quadraticForms(engine, gram, inputs)
    const add = async (first: number, deltas: Float32Array, rows: number): Promise<void> => {
      signal?.throwIfAborted()
      for (const [i, loss] of (await formsOf(deltas, rows)).entries()) losses[first + i] += loss
    }
    const job = {
      ...jobParts(scheme, clip, { rounding: nearest }, storage, undefined),
      ...matrixOfValues(name, weights, out, inputs),
    }
    if (!type && standsByGroup(job)) {
      const changes = candidates.map((factors): Change => (factors ? { name: 'scale', factors } : { name: 'none' }))
      await nearestErrors(kernels, job, changes, ({ firstChange, delta, rows }) => add(firstChange, delta, rows))
      continue
    }
    for (const [i, factors] of candidates.entries()) {
      const values = factors ? multiplyColumns(weights.slice(), factors) : weights
      const inverse = factors?.map(factor => 1 / factor)
      const matrix = matrixOfValues(name, values, out, inputs)
      const { quantized } = await roundJob(kernels, { ...job, ...matrix }, scheme, null)
      await measureRows(kernels, matrix, quantized, ({ delta }, _, rows) =>
        add(i, inverse ? multiplyColumns(delta, inverse) : delta, rows),
      )
    }
  }
  return losses
}
