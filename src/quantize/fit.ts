/**
 * Parameters of groups: range, then the clip's search. The fast twin is src/engine/kernel/assembly/fit.ts: the same float32 operations in
 * the same order, one test holds them equal.
 */
import type { Storage, UniformGrid } from '../contracts.ts'
import type { Clip } from './clip/clip.ts'
import { type Affine, maxCodeOf, rangeParameters } from './grid/uniform.ts'
import { clamp, roundHalfEven } from './numeric.ts'

/** How one group's weights become its parameters. */
export interface FitRule {
  readonly grid: UniformGrid
  readonly clip: Clip
  readonly storage: Storage
}

/** Lowest and highest weight, 0 held inside. */
export interface Range {
  readonly low: number
  readonly high: number
}

export const rangeOf = (weights: Iterable<number>): Range => {
  let low = 0
  let high = 0
  for (const weight of weights) {
    if (weight < low) low = weight
    if (weight > high) high = weight
  }
  return { low, high }
}

/** Parameters for each shrink factor of the clip. */
export const candidatesOf = ({ low, high }: Range, { grid, clip, storage }: FitRule): Affine[] =>
  Array.from(clip.shrinks, p => rangeParameters(Math.fround(low * p), Math.fround(high * p), grid, storage))

/**
 * Σ_j weighting_j · (y_j − clamp(rne(y_j), −z, maxCode − z))², y = w / s: the group's squared error in code units, by the reciprocal of the scale
 * (codes themselves divide; the two differ at ties, where the error does not).
 */
export const errorInCodes = (
  weights: Float32Array,
  weighting: Float32Array,
  { scale, zero }: Affine,
  maxCode: number,
): number => {
  const inverse = Math.fround(1 / scale)
  let sum = 0
  for (let j = 0; j < weights.length; j++) {
    const y = Math.fround(weights[j] * inverse)
    const residual = Math.fround(y - clamp(roundHalfEven(y), -zero, maxCode - zero))
    sum = Math.fround(sum + Math.fround(weighting[j] * Math.fround(residual * residual)))
  }
  return sum
}

/**
 * The first candidate of least error. `errors` are in code units; they are compared relative to the first candidate's scale, so that neither
 * square under- nor overflows. `round`: to float32 for a group of one row, none for sums over rows.
 */
export const bestCandidate = (
  candidates: readonly Affine[],
  errors: readonly number[],
  round: (x: number) => number,
): Affine => {
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
export const fitGroup = (weights: Float32Array, weighting: Float32Array, rule: FitRule): Affine => {
  const candidates = candidatesOf(rangeOf(weights), rule)
  if (candidates.length === 1) return candidates[0]
  const maxCode = maxCodeOf(rule.grid)
  const errors = candidates.map(candidate => errorInCodes(weights, weighting, candidate, maxCode))
  return bestCandidate(candidates, errors, Math.fround)
}

/** One pair of parameters for all rows: errors of rows are summed in float64, in row order. */
export const fitJointly = (rows: readonly Float32Array[], weighting: Float32Array, rule: FitRule): Affine => {
  const ranges = rows.map(rangeOf)
  const candidates = candidatesOf(rangeOf(ranges.flatMap(({ low, high }) => [low, high])), rule)
  if (candidates.length === 1) return candidates[0]
  const maxCode = maxCodeOf(rule.grid)
  const errors = candidates.map(candidate =>
    rows.reduce((total, weights) => total + errorInCodes(weights, weighting, candidate, maxCode), 0),
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
