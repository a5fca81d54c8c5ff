/** 1.5 · 2^23. In float32, x + it is an integer for |x| ≤ 4194303, rounded half to even by the addition itself. */
const magic = 12582912

/**
 * Half to even, in float32: the formats' rounding (Math.round rounds halves up). Beyond 2^22 the result is only near x, which every
 * caller clamps.
 */
export const roundHalfEven = (x: number): number => Math.fround(Math.fround(x + magic) - magic)

/** min(max(x, low), high); NaN gives low. */
export const clamp = (x: number, low: number, high: number): number => {
  if (!(x > low)) return low
  return Math.min(x, high)
}
