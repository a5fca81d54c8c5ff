/**
 * The searches of ggml-quants.c for the scale (and minimum) of a sub-block; the bits are those of its C code compiled without fused
 * multiply-add. x, weights: f32 [n]; codes: u8 [n]. Addresses.
 */
import { atMost, clampTo, nearest } from './numbers'

/** GROUP_MAX_EPS: a sub-block of no greater magnitude is zeros. */
const TINY: f32 = 1e-15

/** The minimum that the last affine search found, negated; exports cannot return two values. */
export let minimum: f32 = 0

function value(x: usize, i: usize): f32 {
  return load<f32>(x + (i << 2))
}

/** The value of greatest magnitude, with its sign; the first of equals. */
export function extreme(x: usize, n: usize): f32 {
  let magnitude: f32 = 0
  let found: f32 = 0
  for (let i: usize = 0; i < n; i++) {
    const v = value(x, i)
    if (abs(v) > magnitude) {
      magnitude = abs(v)
      found = v
    }
  }
  return found
}

/**
 * make_qx_quants, rmse_type 1: the scale of x ≈ scale · (code − levels) by weighted least squares over 19 candidates.
 * @param weights 0: x²
 */
export function searchSymmetric(n: usize, levels: i32, x: usize, codes: usize, weights: usize): f32 {
  const most = extreme(x, n)
  if (abs(most) < TINY) {
    memory.fill(codes, 0, n)
    return 0
  }
  const high = <f32>(levels - 1)
  const low = <f32>-levels
  let scale: f32 = 0
  let best: f32 = 0
  for (let candidate = 0; candidate < 19; candidate++) {
    // the plain scale first, then −9 … 9 but 0
    const k = candidate === 0 ? 0 : candidate <= 9 ? candidate - 10 : candidate - 9
    const inverse = -(<f32>levels + <f32>0.1 * <f32>k) / most
    let sumXl: f32 = 0
    let sumL2: f32 = 0
    for (let i: usize = 0; i < n; i++) {
      const v = value(x, i)
      const l = clampTo(nearest(inverse * v), low, high)
      const w = weights ? value(weights, i) : v * v
      sumXl += w * v * l
      sumL2 += w * l * l
    }
    if (candidate === 0) {
      scale = sumL2 !== 0 ? sumXl / sumL2 : 0
      best = scale * sumXl
    } else if (sumL2 > 0 && sumXl * sumXl > best * sumL2) {
      scale = sumXl / sumL2
      best = scale * sumXl
    } else continue
    for (let i: usize = 0; i < n; i++)
      store<u8>(codes + i, <u8>(levels + <i32>clampTo(nearest(inverse * value(x, i)), low, high)))
  }
  return scale
}

/** make_q3_quants with do_rmse: as above with weights x², one candidate, then up to five sweeps of moves of single codes. */
export function searchMoves(n: usize, levels: i32, x: usize, codes: usize): f32 {
  const most = extreme(x, n)
  if (abs(most) < TINY) {
    memory.fill(codes, 0, n)
    return 0
  }
  const high = <f32>(levels - 1)
  const low = <f32>-levels
  const inverse = <f32>-levels / most
  let sumXl: f32 = 0
  let sumL2: f32 = 0
  for (let i: usize = 0; i < n; i++) {
    const v = value(x, i)
    const l = clampTo(nearest(inverse * v), low, high)
    store<i8>(codes + i, <i8>l)
    const w = v * v
    sumXl += w * v * l
    sumL2 += w * l * l
  }
  for (let sweep = 0; sweep < 5; sweep++) {
    let changed = false
    for (let i: usize = 0; i < n; i++) {
      const v = value(x, i)
      const l = <f32>load<i8>(codes + i)
      const w = v * v
      let slx = sumXl - w * v * l
      if (!(slx > 0)) continue
      let sl2 = sumL2 - w * l * l
      const moved = clampTo(nearest((v * sl2) / slx), low, high)
      if (moved === l) continue
      slx += w * v * moved
      sl2 += w * moved * moved
      if (sl2 > 0 && slx * slx * sumL2 > sumXl * sumXl * sl2) {
        store<i8>(codes + i, <i8>moved)
        sumXl = slx
        sumL2 = sl2
        changed = true
      }
    }
    if (!changed) break
  }
  for (let i: usize = 0; i < n; i++) store<i8>(codes + i, load<i8>(codes + i) + <i8>levels)
  return sumL2 > 0 ? sumXl / sumL2 : 0
}

/**
 * make_qkx2_quants and make_qkx3_quants: scale and minimum of x ≈ scale · code − minimum by weighted least squares over the candidates
 * 1/scale = (first + step · k + levels) / (max − min), k = 0 … steps, with the best minimum so far.
 * @param absolute the error that is compared is Σ w |e| instead of Σ w e²
 * @param trial u8 [n], of no value afterwards
 * @returns the scale; `minimum` is the minimum, not negative
 */
export function searchAffine(
  n: usize,
  levels: i32,
  x: usize,
  weights: usize,
  codes: usize,
  trial: usize,
  first: f32,
  step: f32,
  steps: i32,
  absolute: bool,
): f32 {
  let min = value(x, 0)
  let max = min
  let sumW = value(weights, 0)
  let sumX = sumW * min
  for (let i: usize = 1; i < n; i++) {
    const v = value(x, i)
    const w = value(weights, i)
    if (v < min) min = v
    if (v > max) max = v
    sumW += w
    sumX += w * v
  }
  if (min > 0) min = 0
  if (max <= min) {
    memory.fill(codes, 0, n)
    minimum = -min
    return 0
  }
  const high = <f32>levels
  let inverse = high / (max - min)
  let scale = <f32>1 / inverse
  let best: f32 = 0
  for (let i: usize = 0; i < n; i++) {
    const v = value(x, i)
    const l = clampTo(nearest(inverse * (v - min)), 0, high)
    store<u8>(codes + i, <u8>l)
    const e = scale * l + min - v
    best += value(weights, i) * (absolute ? abs(e) : e * e)
  }
  for (let k = 0; k <= steps; k++) {
    inverse = (first + step * <f32>k + high) / (max - min)
    let sumL: f32 = 0
    let sumL2: f32 = 0
    let sumXl: f32 = 0
    for (let i: usize = 0; i < n; i++) {
      const v = value(x, i)
      const l = clampTo(nearest(inverse * (v - min)), 0, high)
      store<u8>(trial + i, <u8>l)
      const w = value(weights, i)
      sumL += w * l
      sumL2 += w * l * l
      sumXl += w * l * v
    }
    const determinant = sumW * sumL2 - sumL * sumL
    if (!(determinant > 0)) continue
    let triedScale = (sumW * sumXl - sumX * sumL) / determinant
    let triedMin = (sumL2 * sumX - sumL * sumXl) / determinant
    if (triedMin > 0) {
      triedMin = 0
      triedScale = sumXl / sumL2
    }
    let error: f32 = 0
    for (let i: usize = 0; i < n; i++) {
      const e = triedScale * <f32>load<u8>(trial + i) + triedMin - value(x, i)
      error += value(weights, i) * (absolute ? abs(e) : e * e)
    }
    if (error < best) {
      memory.copy(codes, trial, n)
      best = error
      scale = triedScale
      min = triedMin
    }
  }
  minimum = -min
  return scale
}

/**
 * make_qp_quants: the scale of x ≈ scale · code, x not negative, for the scales or minima of a super-block: nine candidates, then up to
 * five sweeps of moves of single codes.
 */
export function searchPositive(n: usize, levels: i32, x: usize, codes: usize, weights: usize): f32 {
  let max: f32 = 0
  for (let i: usize = 0; i < n; i++) if (value(x, i) > max) max = value(x, i)
  if (max < TINY) {
    memory.fill(codes, 0, n)
    return 0
  }
  const high = <f32>levels
  let inverse = high / max
  let best: f32 = 0
  for (let candidate = 0; candidate < 9; candidate++) {
    // the plain scale first, then −4 … 4 but 0
    const k = candidate === 0 ? 0 : candidate <= 4 ? candidate - 5 : candidate - 4
    const tried = candidate === 0 ? inverse : (<f32>0.1 * <f32>k + high) / max
    const scale = <f32>1 / tried
    let error: f32 = 0
    for (let i: usize = 0; i < n; i++) {
      const rounded = nearest(tried * value(x, i))
      const e = value(x, i) - scale * atMost(rounded, high)
      error += value(weights, i) * e * e
    }
    if (candidate === 0 || error < best) {
      best = error
      inverse = tried
    }
  }
  let sumXl: f32 = 0
  let sumL2: f32 = 0
  for (let i: usize = 0; i < n; i++) {
    const rounded = nearest(inverse * value(x, i))
    const l = atMost(rounded, high)
    store<u8>(codes + i, <u8>l)
    const w = value(weights, i)
    sumXl += w * value(x, i) * l
    sumL2 += w * l * l
  }
  for (let sweep = 0; sweep < 5; sweep++) {
    let changed = false
    for (let i: usize = 0; i < n; i++) {
      const w = value(weights, i)
      const v = value(x, i)
      const l = <f32>load<u8>(codes + i)
      let slx = sumXl - w * v * l
      let sl2 = sumL2 - w * l * l
      if (!(slx > 0 && sl2 > 0)) continue
      const rounded = nearest((v * sl2) / slx)
      const moved = atMost(rounded, high)
      if (moved === l) continue
      slx += w * v * moved
      sl2 += w * moved * moved
      if (slx * slx * sumL2 > sumXl * sumXl * sl2) {
        store<u8>(codes + i, <u8>moved)
        sumXl = slx
        sumL2 = sl2
        changed = true
      }
    }
    if (!changed) break
  }
  return sumL2 > 0 ? sumXl / sumL2 : 0
}
