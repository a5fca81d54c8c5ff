/**
 * Parameters of groups: range, then the clip's search. The fast twin is src/engine/kernel/assembly/fit.ts: the same float32 operations in
 * the same order, one test holds them equal.
 */
import type { Grid, Storage } from '../contracts.ts'
import type { Clip } from './clip/clip.ts'
import { type Coder, type Parameters, type Range, rangeOf } from './grid/coder.ts'
import { coderOf } from './grid/index.ts'

/** How one group's weights become its parameters. */
export interface FitRule {
  readonly grid: Grid
  readonly clip: Clip
  readonly storage: Storage
}

/** Parameters for each shrink factor of the clip. */
export const candidatesOf = ({ low, high }: Range, clip: Clip, coder: Coder): Parameters[] =>
  Array.from(clip.shrinks, p => coder.parameters({ low: Math.fround(low * p), high: Math.fround(high * p) }))

/** Σ_j weighting_j · r_j², r the residual in units of the scale: the group's squared error in code units. */
export const errorInCodes = (
  weights: Float32Array,
  weighting: Float32Array,
  parameters: Parameters,
  coder: Coder,
): number => {
  const inverse = Math.fround(1 / parameters.scale)
  let sum = 0
  for (let j = 0; j < weights.length; j++) {
    const residual = coder.residual(weights[j], parameters, inverse)
    sum = Math.fround(sum + Math.fround(weighting[j] * Math.fround(residual * residual)))
  }
  return sum
}

/**
 * The first candidate of least error. `errors` are in code units; they are compared relative to the first candidate's scale, so that neither
 * square under- nor overflows. `round`: to float32 for a group of one row, none for sums over rows.
 */
export const bestCandidate = (
  candidates: readonly Parameters[],
  errors: readonly number[],
  round: (x: number) => number,
): Parameters => {
  let best = candidates[0]
  let least = Number.POSITIVE_INFINITY
  for (const [i, candidate] of candidates.entries()) {
    const ratio = Math.fround(candidate.scale / candidates[0].scale)
    const total = round(errors[i] * Math.fround(ratio * ratio))
    if (total < least) {
      least = total
      best = candidate
    }
  }
  return best
}

/** @param weights the group's weights in one row */
export const fitGroup = (weights: Float32Array, weighting: Float32Array, rule: FitRule): Parameters => {
  const coder = coderOf(rule.grid, rule.storage)
  const candidates = candidatesOf(rangeOf(weights, coder.aroundZero), rule.clip, coder)
  if (candidates.length === 1) return candidates[0]
  const errors = candidates.map(candidate => errorInCodes(weights, weighting, candidate, coder))
  return bestCandidate(candidates, errors, Math.fround)
}

/** One pair of parameters for all rows: errors of rows are summed in float64, in row order. */
export const fitJointly = (rows: readonly Float32Array[], weighting: Float32Array, rule: FitRule): Parameters => {
  const coder = coderOf(rule.grid, rule.storage)
  const ranges = rows.map(row => rangeOf(row, coder.aroundZero))
  const candidates = candidatesOf(
    rangeOf(
      ranges.flatMap(({ low, high }) => [low, high]),
      coder.aroundZero,
    ),
    rule.clip,
    coder,
  )
  if (candidates.length === 1) return candidates[0]
  const errors = candidates.map(candidate =>
    rows.reduce((total, weights) => total + errorInCodes(weights, weighting, candidate, coder), 0),
  )
  return bestCandidate(candidates, errors, x => x)
}

/**
 * Weighting of columns with its largest value exactly 1: any positive multiple of it means the same. All ones without data, or where
 * nothing was seen.
 */
export const normalizedWeighting = (inputs: number, weighting?: Float32Array): Float32Array => {
  const largest = weighting?.reduce((most, w) => Math.max(w, most), 0) ?? 0
  if (!weighting || !(largest > 0) || largest === Number.POSITIVE_INFINITY) return new Float32Array(inputs).fill(1)
  return weighting.map(w => (w > 0 ? w / largest : 0))
}
