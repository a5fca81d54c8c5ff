import { power } from './power.ts'
import { gathered, type ScaleTransform, type TapToScale } from './transform.ts'

/** Beyond these a norm in bfloat16 would lose its channels. */
const [least, most] = [1e-5, 1e5]

/** [in]: the largest |w| of each column, over all linears. */
const columnMagnitude = (linears: TapToScale['linears']): Float32Array => {
  const inputs = linears[0].in
  const found = new Float32Array(inputs)
  for (const { weights } of linears)
    for (let i = 0; i < weights.length; i++) {
      const magnitude = Math.abs(weights[i])
      if (magnitude > found[i % inputs]) found[i % inputs] = magnitude
    }
  return found
}

/**
 * s = max|x|^α / max|w|^(1 − α) for each channel behind a norm (Xiao et al. 2023, arXiv 2211.10438, eq. 4): outliers of activations move
 * into weights, which bear them better. A channel that was never seen, or has no weights, stays as it is.
 */
export const smoothquant: ScaleTransform = {
  name: 'smoothquant',
  summary: 'activation outliers moved into weights (SmoothQuant)',
  vias: ['norm'],
  async fit({ fold, statistics: { channels }, linears, alpha }) {
    const { low, high } = channels!
    const x = gathered(
      fold,
      low.map((value, i) => Math.max(-value, high[i])),
      Math.max,
    )
    const w = gathered(fold, columnMagnitude(linears), Math.max)
    const factors = Float32Array.from(x, (magnitude, i) =>
      magnitude > 0 && w[i] > 0 ? Math.min(most, Math.max(least, power(magnitude, alpha) / power(w[i], 1 - alpha))) : 1,
    )
    return { factors, exponent: alpha, loss: null, before: null }
  },
}
