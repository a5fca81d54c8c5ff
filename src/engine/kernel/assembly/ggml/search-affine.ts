/** make_qkx2_quants and make_qkx3_quants of four rows at once, a row in each lane. */
import { asLevels, cutSteps, stepsOf } from './numbers'
import { INVERSES, MINIMA, ORIGINS, SCALES, THIRD, VALUES, WEIGHTS } from './scratch'

/** Σ w |e| or Σ w e² with e = scale · level + min − x; levels lie in THIRD. */
function errors(n: usize, scale: v128, min: v128, absolute: bool, scratch: usize): v128 {
  let sum = f32x4.splat(0)
  if (absolute)
    for (let i: usize = 0; i < n << 4; i += 16) {
      const fitted = f32x4.add(f32x4.mul(scale, v128.load(scratch + i, THIRD)), min)
      const e = f32x4.abs(f32x4.sub(fitted, v128.load(scratch + i, VALUES)))
      sum = f32x4.add(sum, f32x4.mul(v128.load(scratch + i, WEIGHTS), e))
    }
  else
    for (let i: usize = 0; i < n << 4; i += 16) {
      const fitted = f32x4.add(f32x4.mul(scale, v128.load(scratch + i, THIRD)), min)
      const e = f32x4.sub(fitted, v128.load(scratch + i, VALUES))
      sum = f32x4.add(sum, f32x4.mul(v128.load(scratch + i, WEIGHTS), f32x4.mul(e, e)))
    }
  return sum
}

/**
 * Scales and minima of x ≈ scale · code + min by weighted least squares over the candidates
 * 1/scale = (first + step · k + most) / (max − min), k = 0 … steps, with the best minimum so far.
 * VALUES, WEIGHTS: f32x4 [n]. Leaves scales, minima (negated), inverses and origins of the codes in scratch.
 * @param most the greatest code
 * @param absolute the error that is compared is Σ w |e| instead of Σ w e²
 * @param place 16 × the number of the four rows
 */
export function searchAffine(
  n: usize,
  most: i32,
  first: f32,
  step: f32,
  steps: i32,
  absolute: bool,
  scratch: usize,
  place: usize,
): void {
  const low = stepsOf(0)
  const high = stepsOf(most)
  const bytes = n << 4
  let min = v128.load(scratch, VALUES)
  let max = min
  let sumW = v128.load(scratch, WEIGHTS)
  let sumX = f32x4.mul(sumW, min)
  for (let i: usize = 16; i < bytes; i += 16) {
    const v = v128.load(scratch + i, VALUES)
    const w = v128.load(scratch + i, WEIGHTS)
    min = f32x4.pmin(min, v)
    max = f32x4.pmax(max, v)
    sumW = f32x4.add(sumW, w)
    sumX = f32x4.add(sumX, f32x4.mul(w, v))
  }
  min = f32x4.pmin(min, f32x4.splat(0))
  // infinite where max = min: the scale is then 0 and no candidate wins, as in ggml, which returns early
  let inverse = f32x4.div(f32x4.splat(<f32>most), f32x4.sub(max, min))
  for (let i: usize = 0; i < bytes; i += 16) {
    const v = v128.load(scratch + i, VALUES)
    v128.store(scratch + i, asLevels(cutSteps(f32x4.mul(inverse, f32x4.sub(v, min)), low, high)), THIRD)
  }
  let scale = f32x4.div(f32x4.splat(1), inverse)
  let best = errors(n, scale, min, absolute, scratch)
  let bestInverse = inverse
  let origin = min
  for (let k = 0; k <= steps; k++) {
    inverse = f32x4.div(f32x4.splat(first + step * <f32>k + <f32>most), f32x4.sub(max, min))
    let sumL = f32x4.splat(0)
    let sumL2 = f32x4.splat(0)
    let sumXl = f32x4.splat(0)
    for (let i: usize = 0; i < bytes; i += 16) {
      const v = v128.load(scratch + i, VALUES)
      const l = asLevels(cutSteps(f32x4.mul(inverse, f32x4.sub(v, min)), low, high))
      v128.store(scratch + i, l, THIRD)
      const wl = f32x4.mul(v128.load(scratch + i, WEIGHTS), l)
      sumL = f32x4.add(sumL, wl)
      sumL2 = f32x4.add(sumL2, f32x4.mul(wl, l))
      sumXl = f32x4.add(sumXl, f32x4.mul(wl, v))
    }
    const determinant = f32x4.sub(f32x4.mul(sumW, sumL2), f32x4.mul(sumL, sumL))
    const fittedScale = f32x4.div(f32x4.sub(f32x4.mul(sumW, sumXl), f32x4.mul(sumX, sumL)), determinant)
    const fittedMin = f32x4.div(f32x4.sub(f32x4.mul(sumL2, sumX), f32x4.mul(sumL, sumXl)), determinant)
    const above = f32x4.gt(fittedMin, f32x4.splat(0))
    const triedMin = v128.andnot(fittedMin, above)
    const triedScale = v128.bitselect(f32x4.div(sumXl, sumL2), fittedScale, above)
    const error = errors(n, triedScale, triedMin, absolute, scratch)
    const better = v128.and(f32x4.lt(error, best), f32x4.gt(determinant, f32x4.splat(0)))
    best = v128.bitselect(error, best, better)
    scale = v128.bitselect(triedScale, scale, better)
    bestInverse = v128.bitselect(inverse, bestInverse, better)
    origin = v128.bitselect(min, origin, better)
    min = v128.bitselect(triedMin, min, better)
  }
  const at = scratch + place
  v128.store(at, scale, SCALES)
  v128.store(at, f32x4.neg(min), MINIMA)
  v128.store(at, bestInverse, INVERSES)
  v128.store(at, origin, ORIGINS)
}
