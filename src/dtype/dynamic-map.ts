/**
 * The 256 values of bitsandbytes' signed dynamic map (bitsandbytes/functional.py, create_dynamic_map), ascending: for i = 0 … 6 the midpoints
 * of 2^i + 1 points spread evenly over [0.1, 1], times 10^(i − 6), with both signs; 0; and 1. In float32 as torch computes them, so that the
 * map is the one that checkpoints hold, to the bit.
 */
export const dynamicMap = (): Float32Array => {
  const values = [0, 1]
  for (let i = 0; i < 7; i++) {
    const points = evenPoints(2 ** i)
    const power = Math.fround(10 ** (i - 6))
    for (let k = 0; k < 2 ** i; k++) {
      const middle = Math.fround(power * Math.fround(Math.fround(points[k] + points[k + 1]) / 2))
      values.push(middle, -middle)
    }
  }
  return Float32Array.from(values).sort()
}

/** torch.linspace(0.1, 1, pieces + 1): from the nearer end, product and sum rounded once (a sum of float64 here is exact). */
const evenPoints = (pieces: number): Float32Array => {
  const low = Math.fround(0.1)
  const step = Math.fround(Math.fround(1 - low) / pieces)
  const nearLow = Math.floor((pieces + 1) / 2)
  return Float32Array.from({ length: pieces + 1 }, (_, k) => (k < nearLow ? low + step * k : 1 - step * (pieces - k)))
}
