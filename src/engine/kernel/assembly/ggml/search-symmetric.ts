/** make_qx_quants and make_q3_quants of four rows at once, a row in each lane. */
import { clamp, rne } from '../simd'
import { extremes } from './lanes'
import { asLevels, cutSteps, stepsOf } from './numbers'
import { INVERSES, ORIGINS, SCALES, THIRD, VALUES, WEIGHTS } from './scratch'

/** GROUP_MAX_EPS: a row of no greater magnitude is zeros. */
const TINY: f32 = 1e-15

/** Σ w x l and Σ w l² of what was fitted last; a function returns one value. */
let sumXl: v128 = f32x4(0, 0, 0, 0)
let sumL2: v128 = f32x4(0, 0, 0, 0)

/** |inverse · x| < levels + 1: needs no care beyond 2^22. THIRD holds w · x. */
function fit(n: usize, inverse: v128, low: v128, high: v128, scratch: usize): void {
  let xl = f32x4.splat(0)
  let l2 = f32x4.splat(0)
  for (let i: usize = 0; i < n << 4; i += 16) {
    const l = clamp(rne(f32x4.mul(inverse, v128.load(scratch + i, VALUES))), low, high)
    xl = f32x4.add(xl, f32x4.mul(v128.load(scratch + i, THIRD), l))
    l2 = f32x4.add(l2, f32x4.mul(f32x4.mul(v128.load(scratch + i, WEIGHTS), l), l))
  }
  sumXl = xl
  sumL2 = l2
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
  fit(n, bestInverse, low, high, scratch)
  let scale = v128.andnot(f32x4.div(sumXl, sumL2), f32x4.eq(sumL2, f32x4.splat(0)))
  let best = f32x4.mul(scale, sumXl)
  for (let k = -9; k <= 9; k++) {
    if (k === 0) continue
    const inverse = f32x4.div(f32x4.splat(-(<f32>levels + <f32>0.1 * <f32>k)), most)
    fit(n, inverse, low, high, scratch)
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

/** One try to move each level of THIRD to where the others want it. Returns the lanes in which one moved. */
function moveLevels(n: usize, low: v128, high: v128, scratch: usize): v128 {
  const zero = f32x4.splat(0)
  let xl = sumXl
  let l2 = sumL2
  let changed = zero
  for (let i: usize = 0; i < n << 4; i += 16) {
    const v = v128.load(scratch + i, VALUES)
    const l = v128.load(scratch + i, THIRD)
    const w = v128.load(scratch + i, WEIGHTS)
    const wv = f32x4.mul(w, v)
    const restXl = f32x4.sub(xl, f32x4.mul(wv, l))
    const restL2 = f32x4.sub(l2, f32x4.mul(f32x4.mul(w, l), l))
    const moved = asLevels(cutSteps(f32x4.div(f32x4.mul(v, restL2), restXl), low, high))
    const triedXl = f32x4.add(restXl, f32x4.mul(wv, moved))
    const triedL2 = f32x4.add(restL2, f32x4.mul(f32x4.mul(w, moved), moved))
    const gain = f32x4.gt(f32x4.mul(f32x4.mul(triedXl, triedXl), l2), f32x4.mul(f32x4.mul(xl, xl), triedL2))
    const sound = v128.and(f32x4.gt(restXl, zero), f32x4.gt(triedL2, zero))
    const better = v128.and(v128.and(gain, sound), f32x4.ne(moved, l))
    xl = v128.bitselect(triedXl, xl, better)
    l2 = v128.bitselect(triedL2, l2, better)
    v128.store(scratch + i, v128.bitselect(moved, l, better), THIRD)
    changed = v128.or(changed, better)
  }
  sumXl = xl
  sumL2 = l2
  return changed
}

/**
 * make_q3_quants with do_rmse: scales of x ≈ scale · level, weights x², one candidate, then up to five sweeps of moves of single levels.
 * VALUES, WEIGHTS: f32x4 [n]. Leaves scales in SCALES, levels (f32x4 [n]) in THIRD.
 */
export function searchMoves(n: usize, levels: i32, scratch: usize, place: usize): void {
  const most = extremes(scratch + VALUES, n)
  const tiny = isTiny(most)
  const low = f32x4.splat(<f32>-levels)
  const high = f32x4.splat(<f32>(levels - 1))
  const inverse = f32x4.div(low, most)
  weighValues(n, scratch)
  fit(n, inverse, low, high, scratch)
  for (let i: usize = 0; i < n << 4; i += 16) {
    const l = clamp(rne(f32x4.mul(inverse, v128.load(scratch + i, VALUES))), low, high)
    v128.store(scratch + i, l, THIRD)
  }
  for (let sweep = 0; sweep < 5; sweep++)
    if (!v128.any_true(moveLevels(n, stepsOf(-levels), stepsOf(levels - 1), scratch))) break
  const scale = v128.and(f32x4.div(sumXl, sumL2), f32x4.gt(sumL2, f32x4.splat(0)))
  v128.store(scratch + place, v128.andnot(scale, tiny), SCALES)
  for (let i: usize = 0; i < n << 4; i += 16) {
    // in a tiny row they are those of code 0
    v128.store(scratch + i, v128.bitselect(low, v128.load(scratch + i, THIRD), tiny), THIRD)
  }
}
