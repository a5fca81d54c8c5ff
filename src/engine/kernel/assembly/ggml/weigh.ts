/** Weights of the searches: what an error in each value counts. */

/** Σ x², in order. */
export function sumOfSquares(x: usize, n: usize): f32 {
  let sum: f32 = 0
  for (let i: usize = 0; i < n; i++) {
    const v = load<f32>(x + (i << 2))
    sum += v * v
  }
  return sum
}

/** w = importance · √(variance + x²). Returns Σ w. */
export function weighByImportance(x: usize, importances: usize, variance: f32, n: usize, weights: usize): f32 {
  let sum: f32 = 0
  for (let i: usize = 0; i < n; i++) {
    const v = load<f32>(x + (i << 2))
    const w = load<f32>(importances + (i << 2)) * sqrt<f32>(variance + v * v)
    store<f32>(weights + (i << 2), w)
    sum += w
  }
  return sum
}

/** w = x². Returns Σ w. */
export function weighBySquare(x: usize, n: usize, weights: usize): f32 {
  let sum: f32 = 0
  for (let i: usize = 0; i < n; i++) {
    const v = load<f32>(x + (i << 2))
    store<f32>(weights + (i << 2), v * v)
    sum += v * v
  }
  return sum
}

/** w = base + |x|. */
export function weighByMagnitude(x: usize, base: f32, n: usize, weights: usize): void {
  for (let i: usize = 0; i < n; i++) store<f32>(weights + (i << 2), base + abs(load<f32>(x + (i << 2))))
}
