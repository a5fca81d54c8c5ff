/** make_qx_quants and make_q3_quants of four rows at once, a row in each lane. */
import { clamp, rne } from '../simd'
import { extremes } from './lanes'
import { moveLevels } from './move-levels'
import { stepsOf } from './numbers'
import { INVERSES, ORIGINS, SCALES, SUM_L2, SUM_XL, THIRD, VALUES, WEIGHTS } from './scratch'

/** GROUP_MAX_EPS: a row of no greater magnitude is zeros. */
const TINY: f32 = 1e-15

/** Sums of the levels nearest to inverse · x, which is less than levels + 1 and needs no care beyond 2^22. THIRD holds w · x. */
function fitLevels(n: usize, inverse: v128, low: v128, high: v128, scratch: usize): void {
  let xl = f32x4.splat(0)
  let l2 = f32x4.splat(0)
  for (let i: usize = 0; i < n << 4; i += 16) {
    const l = clamp(rne(f32x4.mul(inverse, v128.load(scratch + i, VALUES))), low, high)
    xl = f32x4.add(xl, f32x4.mul(v128.load(scratch + i, THIRD), l))
    l2 = f32x4.add(l2, f32x4.mul(f32x4.mul(v128.load(scratch + i, WEIGHTS), l), l))
  }
  v128.store(scratch, xl, SUM_XL)
  v128.store(scratch, l2, SUM_L2)
}

function weighValues(n: usize, scratch: usize): void {
  for (let i: usize = 0; i < n << 4; i += 16)
    v128.store(scratch + i, f32x4.mul(v128.load(scratch + i, WEIGHTS), v128.load(scratch + i, VALUES)), THIRD)
}

function isTiny(x: v128): v128 {
  return f32x4.lt(f32x4.abs(x), f32x4.splat(TINY))
}

/**
 * make_qx_quants, rmse_type 1: scales of x ≈ scale · (code − levels) by weighted least squares over 19 candidates.
 * VALUES, WEIGHTS: f32x4 [n]. Leaves scales and inverses of the codes in scratch.
 * @param place 16 × the number of the four rows
 */
export function searchSymmetric(n: usize, levels: i32, scratch: usize, place: usize): void {
  const most = extremes(scratch + VALUES, n)
  const low = f32x4.splat(<f32>-levels)
  const high = f32x4.splat(<f32>(levels - 1))
  weighValues(n, scratch)
  let bestInverse = f32x4.div(low, most)
  fitLevels(n, bestInverse, low, high, scratch)
  let sumXl = v128.load(scratch, SUM_XL)
  let sumL2 = v128.load(scratch, SUM_L2)
  let scale = v128.andnot(f32x4.div(sumXl, sumL2), f32x4.eq(sumL2, f32x4.splat(0)))
  let best = f32x4.mul(scale, sumXl)
  for (let k = -9; k <= 9; k++) {
    if (k === 0) continue
    const inverse = f32x4.div(f32x4.splat(-(<f32>levels + <f32>0.1 * <f32>k)), most)
    fitLevels(n, inverse, low, high, scratch)
    sumXl = v128.load(scratch, SUM_XL)
    sumL2 = v128.load(scratch, SUM_L2)
    const gain = f32x4.gt(f32x4.mul(sumXl, sumXl), f32x4.mul(best, sumL2))
    const better = v128.and(gain, f32x4.gt(sumL2, f32x4.splat(0)))
    scale = v128.bitselect(f32x4.div(sumXl, sumL2), scale, better)
    best = v128.bitselect(f32x4.mul(scale, sumXl), best, better)
    bestInverse = v128.bitselect(inverse, bestInverse, better)
  }
  const tiny = isTiny(most)
  v128.store(scratch + place, v128.andnot(scale, tiny), SCALES)
  v128.store(scratch + place, v128.andnot(bestInverse, tiny), INVERSES)
  v128.store(scratch + place, f32x4.splat(0), ORIGINS)
}

/**
 * make_q3_quants with do_rmse: scales of x ≈ scale · level, weights x², one candidate, then moves of single levels.
 * VALUES, WEIGHTS: f32x4 [n]. Leaves scales in SCALES, levels (f32x4 [n]) in THIRD.
 */
export function searchMoves(n: usize, levels: i32, scratch: usize, place: usize): void {
  const most = extremes(scratch + VALUES, n)
  const tiny = isTiny(most)
  const low = f32x4.splat(<f32>-levels)
  const high = f32x4.splat(<f32>(levels - 1))
  const inverse = f32x4.div(low, most)
  weighValues(n, scratch)
  fitLevels(n, inverse, low, high, scratch)
  for (let i: usize = 0; i < n << 4; i += 16) {
    const l = clamp(rne(f32x4.mul(inverse, v128.load(scratch + i, VALUES))), low, high)
    v128.store(scratch + i, l, THIRD)
  }
  const scale = moveLevels(n, stepsOf(-levels), stepsOf(levels - 1), false, scratch)
  v128.store(scratch + place, v128.andnot(scale, tiny), SCALES)
  for (let i: usize = 0; i < n << 4; i += 16) {
    // in a tiny row they are those of code 0
    v128.store(scratch + i, v128.bitselect(low, v128.load(scratch + i, THIRD), tiny), THIRD)
  }
}
