import { power } from './power.ts'
import { type ChosenScales, gathered, type ScaleTransform, spread, type TapToScale } from './transform.ts'

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

/** Strengths that `--alpha search` tries. */
const strengths = Array.from({ length: 13 }, (_, i) => 0.3 + i / 20)

/**
 * What rounding the inputs to 8 bits adds to the squared outputs of a token: Δ² / 12 a channel, Δ = 2 · the largest magnitude / 255, times
 * the squares of its weights. With a scale for each token it is less, in about the same measure for every strength.
 */
const inputNoise = (linears: TapToScale['linears'], x: Float64Array, factors: Float32Array | undefined): number => {
  const largest = x.reduce((most, magnitude, i) => Math.max(most, magnitude / (factors?.[i] ?? 1)), 0)
  let energy = 0
  for (const { in: inputs, weights } of linears)
    for (let i = 0; i < weights.length; i++) energy += (weights[i] * (factors?.[i % inputs] ?? 1)) ** 2
  return ((2 * largest) / 255) ** 2 * (energy / 12)
}

/**
 * s = max|x|^α / max|w|^(1 − α) for each channel behind a norm (Xiao et al. 2023, arXiv 2211.10438, eq. 4): outliers of activations move
 * into weights, which bear them better. A channel that was never seen, or has no weights, stays as it is.
 */
export const smoothquant: ScaleTransform = {
  name: 'smoothquant',
  summary: 'activation outliers moved into weights (SmoothQuant)',
  vias: ['norm'],
  async fit({ fold, statistics: { channels }, linears, alpha, losses }) {
    const { low, high } = channels!
    const x = gathered(
      fold,
      low.map((value, i) => Math.max(-value, high[i])),
      Math.max,
    )
    const w = gathered(fold, columnMagnitude(linears), Math.max)
    const factorsAt = (strength: number): Float32Array =>
      Float32Array.from(x, (magnitude, i) =>
        magnitude > 0 && w[i] > 0
          ? Math.min(most, Math.max(least, power(magnitude, strength) / power(w[i], 1 - strength)))
          : 1,
      )
    const chosen = (strength: number) => ({ exponent: strength, weightExponent: 1 - strength })
    if (alpha !== 'search') return { factors: factorsAt(alpha), ...chosen(alpha), loss: null, before: null }
    const candidates = [undefined, ...strengths.map(factorsAt)]
    const rounding = await losses(candidates.map(factors => factors && spread(fold, factors)))
    const [before, ...found] = candidates.map((factors, i) => rounding[i] + inputNoise(linears, x, factors))
    let best: ChosenScales | undefined
    for (const [i, strength] of strengths.entries())
      if (found[i] < (best?.loss ?? Number.POSITIVE_INFINITY))
        best = { factors: candidates[i + 1]!, ...chosen(strength), loss: found[i], before }
    return best
  },
}
