/**
 * The 256 values of bitsandbytes' signed dynamic map (bitsandbytes/functional.py, create_dynamic_map), ascending: for i = 0 … 6 the midpoints
 * of 2^i + 1 points spread evenly over [0.1, 1], times 10^(i − 6), with both signs; 0; and 1.
 */
export const dynamicMap = (): Float32Array => {
  const values = [0, 1]
  for (let i = 0; i < 7; i++) {
    const points = 2 ** i
    for (let k = 0; k < points; k++) {
      const middle = (0.1 + 0.9 * ((2 * k + 1) / (2 * points))) * 10 ** (i - 6)
      values.push(middle, -middle)
    }
  }
  return Float32Array.from(values).sort()
}
