export const isFinitePositive = (value: number): boolean => value > 0 && Number.isFinite(value)

/** Divided by the geometric mean of the largest and the smallest: a common factor changes only the producer. */
export const normalized = (factors: Float64Array): Float32Array => {
  let [least, most] = [Number.POSITIVE_INFINITY, 0]
  for (const factor of factors) {
    least = Math.min(least, factor)
    most = Math.max(most, factor)
  }
  const middle = Math.sqrt(least * most)
  return Float32Array.from(factors, factor => factor / middle)
}
