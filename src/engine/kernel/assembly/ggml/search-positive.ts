/** make_qp_quants of four rows at once, a row in each lane. */
import { asLevels, cutSteps, stepsOf } from './numbers'
import { THIRD, VALUES, WEIGHTS } from './scratch'

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

/**
 * The scales of x ≈ scale · code, x not negative, for the scales and the minima of a super-block: nine candidates, then up to five sweeps of moves of
 * single codes. VALUES, WEIGHTS: f32x4 [n]. Leaves codes as floats (f32x4 [n]) in THIRD.
 */
export function searchPositive(n: usize, most: i32, scratch: usize): v128 {
  const zero = f32x4.splat(0)
  const high = stepsOf(most)
  let max = zero
  for (let i: usize = 0; i < n << 4; i += 16) max = f32x4.pmax(max, v128.load(scratch + i, VALUES))
  const inverse = searchInverse(n, most, max, high, scratch)
  let sumXl = zero
  let sumL2 = zero
  for (let i: usize = 0; i < n << 4; i += 16) {
    const v = v128.load(scratch + i, VALUES)
    const w = v128.load(scratch + i, WEIGHTS)
    const l = levelsOf(f32x4.mul(inverse, v), high)
    v128.store(scratch + i, l, THIRD)
    sumXl = f32x4.add(sumXl, f32x4.mul(f32x4.mul(w, v), l))
    sumL2 = f32x4.add(sumL2, f32x4.mul(f32x4.mul(w, l), l))
  }
  for (let sweep = 0; sweep < 5; sweep++) {
    let changed = zero
    for (let i: usize = 0; i < n << 4; i += 16) {
      const v = v128.load(scratch + i, VALUES)
      const w = v128.load(scratch + i, WEIGHTS)
      const l = v128.load(scratch + i, THIRD)
      const wv = f32x4.mul(w, v)
      const restXl = f32x4.sub(sumXl, f32x4.mul(wv, l))
      const restL2 = f32x4.sub(sumL2, f32x4.mul(f32x4.mul(w, l), l))
      const moved = levelsOf(f32x4.div(f32x4.mul(v, restL2), restXl), high)
      const triedXl = f32x4.add(restXl, f32x4.mul(wv, moved))
      const triedL2 = f32x4.add(restL2, f32x4.mul(f32x4.mul(w, moved), moved))
      const gain = f32x4.gt(f32x4.mul(f32x4.mul(triedXl, triedXl), sumL2), f32x4.mul(f32x4.mul(sumXl, sumXl), triedL2))
      const sound = v128.and(f32x4.gt(restXl, zero), f32x4.gt(restL2, zero))
      const better = v128.and(v128.and(gain, sound), f32x4.ne(moved, l))
      sumXl = v128.bitselect(triedXl, sumXl, better)
      sumL2 = v128.bitselect(triedL2, sumL2, better)
      v128.store(scratch + i, v128.bitselect(moved, l, better), THIRD)
      changed = v128.or(changed, better)
    }
    if (!v128.any_true(changed)) break
  }
  const found = f32x4.ge(max, f32x4.splat(TINY))
  for (let i: usize = 0; i < n << 4; i += 16)
    v128.store(scratch + i, v128.and(v128.load(scratch + i, THIRD), found), THIRD)
  return v128.and(f32x4.div(sumXl, sumL2), v128.and(found, f32x4.gt(sumL2, zero)))
}
