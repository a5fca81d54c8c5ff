/** Weights of the searches: what an error in each value counts. x, importances, weights: f32x4 [n], a row in each lane. */

/** Σ x² of f32 [n], in order. */
export function sumOfSquares(x: usize, n: usize): f32 {
  let sum: f32 = 0
  for (let i: usize = 0; i < n << 2; i += 4) {
    const v = load<f32>(x + i)
    sum += v * v
  }
  return sum
}

/** Σ x² of each lane, in order. */
export function sumsOfSquares(x: usize, n: usize): v128 {
  let sums = f32x4.splat(0)
  for (let i: usize = 0; i < n << 4; i += 16) {
    const v = v128.load(x + i)
    sums = f32x4.add(sums, f32x4.mul(v, v))
  }
  return sums
}

/** w = importance · √(variance + x²), in the place of the importances. Returns Σ w. */
export function weighByImportance(x: usize, n: usize, variance: v128, weights: usize): v128 {
  let sums = f32x4.splat(0)
  for (let i: usize = 0; i < n << 4; i += 16) {
    const v = v128.load(x + i)
    const w = f32x4.mul(v128.load(weights + i), f32x4.sqrt(f32x4.add(variance, f32x4.mul(v, v))))
    v128.store(weights + i, w)
    sums = f32x4.add(sums, w)
  }
  return sums
}

/** w = x². */
export function weighBySquare(x: usize, n: usize, weights: usize): void {
  for (let i: usize = 0; i < n << 4; i += 16) {
    const v = v128.load(x + i)
    v128.store(weights + i, f32x4.mul(v, v))
  }
}

/** w = base + |x|. */
export function weighByMagnitude(x: usize, n: usize, base: v128, weights: usize): void {
  for (let i: usize = 0; i < n << 4; i += 16) v128.store(weights + i, f32x4.add(base, f32x4.abs(v128.load(x + i))))
}
