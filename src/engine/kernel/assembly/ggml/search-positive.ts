/** make_qp_quants of four rows at once, a row in each lane. */
import { moveLevels } from './move-levels'
import { asLevels, cutSteps, stepsOf } from './numbers'
import { SUM_L2, SUM_XL, THIRD, VALUES, WEIGHTS } from './scratch'

/** GROUP_MAX_EPS: a row of none greater is zeros. */
const TINY: f32 = 1e-15
/** −2^22: nothing is cut below. */
const LOWEST: i32 = -0x400000

function levelsOf(x: v128, high: v128): v128 {
  return asLevels(cutSteps(x, stepsOf(LOWEST), high))
}

/** Σ w (x − level/inverse)². */
function errors(n: usize, inverse: v128, high: v128, scratch: usize): v128 {
  const scale = f32x4.div(f32x4.splat(1), inverse)
  let sum = f32x4.splat(0)
  for (let i: usize = 0; i < n << 4; i += 16) {
    const v = v128.load(scratch + i, VALUES)
    const e = f32x4.sub(v, f32x4.mul(scale, levelsOf(f32x4.mul(inverse, v), high)))
    sum = f32x4.add(sum, f32x4.mul(f32x4.mul(v128.load(scratch + i, WEIGHTS), e), e))
  }
  return sum
}

/** Which of nine candidates errs least. */
function searchInverse(n: usize, most: i32, max: v128, high: v128, scratch: usize): v128 {
  let found = f32x4.div(f32x4.splat(<f32>most), max)
  let best = errors(n, found, high, scratch)
  for (let k = -4; k <= 4; k++) {
    if (k === 0) continue
    const inverse = f32x4.div(f32x4.splat(<f32>0.1 * <f32>k + <f32>most), max)
    const error = errors(n, inverse, high, scratch)
    const better = f32x4.lt(error, best)
    best = v128.bitselect(error, best, better)
    found = v128.bitselect(inverse, found, better)
  }
  return found
}

/** Levels to THIRD, and their sums. */
function fitLevels(n: usize, inverse: v128, high: v128, scratch: usize): void {
  let sumXl = f32x4.splat(0)
  let sumL2 = f32x4.splat(0)
  for (let i: usize = 0; i < n << 4; i += 16) {
    const v = v128.load(scratch + i, VALUES)
    const w = v128.load(scratch + i, WEIGHTS)
    const l = levelsOf(f32x4.mul(inverse, v), high)
    v128.store(scratch + i, l, THIRD)
    sumXl = f32x4.add(sumXl, f32x4.mul(f32x4.mul(w, v), l))
    sumL2 = f32x4.add(sumL2, f32x4.mul(f32x4.mul(w, l), l))
  }
  v128.store(scratch, sumXl, SUM_XL)
  v128.store(scratch, sumL2, SUM_L2)
}

/**
 * The scales of x ≈ scale · code, x not negative, for the scales and the minima of a super-block: nine candidates, then moves of single codes.
 * VALUES, WEIGHTS: f32x4 [n]. Leaves codes as floats (f32x4 [n]) in THIRD.
 */
export function searchPositive(n: usize, most: i32, scratch: usize): v128 {
  const high = stepsOf(most)
  let max = f32x4.splat(0)
  for (let i: usize = 0; i < n << 4; i += 16) max = f32x4.pmax(max, v128.load(scratch + i, VALUES))
  fitLevels(n, searchInverse(n, most, max, high, scratch), high, scratch)
  const scale = moveLevels(n, stepsOf(LOWEST), high, true, scratch)
  const found = f32x4.ge(max, f32x4.splat(TINY))
  for (let i: usize = 0; i < n << 4; i += 16)
    v128.store(scratch + i, v128.and(v128.load(scratch + i, THIRD), found), THIRD)
  return v128.and(scale, found)
}
