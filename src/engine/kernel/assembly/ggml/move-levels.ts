/** Coordinate descent on the levels of four rows at once (make_q3_quants, make_qp_quants). */
import { asLevels, cutSteps } from './numbers'
import { SUM_L2, SUM_XL, THIRD, VALUES, WEIGHTS } from './scratch'

/** One try to move each level to where the others want it, which must raise (Σ w x l)² / Σ w l². Returns the lanes in which one moved. */
function sweep(n: usize, low: v128, high: v128, positive: bool, scratch: usize): v128 {
  const zero = f32x4.splat(0)
  let sumXl = v128.load(scratch, SUM_XL)
  let sumL2 = v128.load(scratch, SUM_L2)
  let changed = zero
  for (let i: usize = 0; i < n << 4; i += 16) {
    const v = v128.load(scratch + i, VALUES)
    const w = v128.load(scratch + i, WEIGHTS)
    const l = v128.load(scratch + i, THIRD)
    const wv = f32x4.mul(w, v)
    const restXl = f32x4.sub(sumXl, f32x4.mul(wv, l))
    const restL2 = f32x4.sub(sumL2, f32x4.mul(f32x4.mul(w, l), l))
    const moved = asLevels(cutSteps(f32x4.div(f32x4.mul(v, restL2), restXl), low, high))
    const wanted = v128.and(f32x4.ne(moved, l), f32x4.gt(restXl, zero))
    // few levels move: a branch that is foreseen spares the next value the wait for these sums (1.8 times as fast)
    if (!v128.any_true(wanted)) continue
    const triedXl = f32x4.add(restXl, f32x4.mul(wv, moved))
    const triedL2 = f32x4.add(restL2, f32x4.mul(f32x4.mul(w, moved), moved))
    const gain = f32x4.gt(f32x4.mul(f32x4.mul(triedXl, triedXl), sumL2), f32x4.mul(f32x4.mul(sumXl, sumXl), triedL2))
    const better = v128.and(v128.and(gain, wanted), f32x4.gt(positive ? restL2 : triedL2, zero))
    sumXl = v128.bitselect(triedXl, sumXl, better)
    sumL2 = v128.bitselect(triedL2, sumL2, better)
    v128.store(scratch + i, v128.bitselect(moved, l, better), THIRD)
    changed = v128.or(changed, better)
  }
  v128.store(scratch, sumXl, SUM_XL)
  v128.store(scratch, sumL2, SUM_L2)
  return changed
}

/**
 * Up to five sweeps over the levels in THIRD (f32x4 [n]), whose sums lie in SUM_XL and SUM_L2 and are kept up.
 * @param low, high as of `cutSteps`
 * @param positive the check of make_qp_quants: Σ w l² of the other levels is positive
 * @returns the scales that then fit best: Σ w x l / Σ w l², or 0
 */
export function moveLevels(n: usize, low: v128, high: v128, positive: bool, scratch: usize): v128 {
  for (let count = 0; count < 5; count++) if (!v128.any_true(sweep(n, low, high, positive, scratch))) break
  const sumL2 = v128.load(scratch, SUM_L2)
  return v128.and(f32x4.div(v128.load(scratch, SUM_XL), sumL2), f32x4.gt(sumL2, f32x4.splat(0)))
}
