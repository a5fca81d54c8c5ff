import { granularity } from '../quantize/granularity.ts'
import { isFinitePositive, normalized } from './factors.ts'
import { power } from './power.ts'
import { type ChosenScales, gathered, type ScaleTransform, spread, type TapToScale } from './transform.ts'

/** Exponents tried: k / 10, each with the weights' magnitudes and without. */
const steps = 10
/** So many candidates, the best by a sample of rows, are tried on all of them: with two, the best of all was missed too often (docs/results.md). */
const finalists = 4

/** [in]: the mean over all rows of |w| divided by the largest |w| of its group (AutoAWQ, quantize/quantizer.py). */
const relativeMagnitude = (linears: TapToScale['linears']): Float32Array => {
  const inputs = linears[0].in
  const sums = new Float64Array(inputs)
  let rows = 0
  for (const { out, group, weights } of linears) {
    const { size } = granularity(group, inputs)
    rows += out
    for (let row = 0; row < out; row++)
      for (let first = 0; first < inputs; first += size) {
        const start = row * inputs
        const end = Math.min(first + size, inputs)
        let most = 0
        for (let i = first; i < end; i++) most = Math.max(most, Math.abs(weights[start + i]))
        for (let i = first; i < end; i++) sums[i] += Math.abs(weights[start + i]) / (most + 1e-6)
      }
  }
  return Float32Array.from(sums, sum => sum / rows)
}

const mean = (a: number, b: number): number => (a + b) / 2

/**
 * Activation-aware scales (Lin et al. 2024, arXiv 2306.00978): s = x̄^r, or x̄^r / w̄^(1 − r) (AutoAWQ's duo_scaling), r searched; x̄ the mean
 * magnitude of an input channel, w̄ that of its weights within their groups. Candidates are compared by the error of the linears' outputs,
 * computed from the Gram matrix where AutoAWQ runs the parent module on tokens; leaving the tap as it is is one of them.
 */
export const awq: ScaleTransform = {
  name: 'awq',
  summary: 'channel scales by activation magnitude, searched (AWQ)',
  vias: ['norm', 'linear'],
  async fit({ fold, statistics, linears, losses, estimates }) {
    const x = gathered(fold, statistics.channels!.absMean, mean)
    const w = gathered(fold, relativeMagnitude(linears), mean)
    const factorsAt = (r: number, duo: boolean): Float32Array =>
      normalized(
        x.map((magnitude, i) => {
          const scale = power(Math.max(magnitude, 1e-12), r)
          return Math.max(duo ? scale / (power(Math.max(w[i], 1e-12), 1 - r) + 1e-4) : scale, 1e-4)
        }),
      )
    const exponents = Array.from({ length: steps }, (_, k) => k / steps)
    const candidateAt = (r: number, duo: boolean) => ({
      ...{ exponent: r, weightExponent: duo ? 1 - r : 0 },
      factors: factorsAt(r, duo),
    })
    const candidates = [
      ...exponents.map(r => candidateAt(r, true)),
      ...exponents.slice(1).map(r => candidateAt(r, false)), // with r = 0 all factors are 1
    ]
      .filter(({ factors }) => factors.every(isFinitePositive))
      .map(candidate => ({ ...candidate, spread: spread(fold, candidate.factors) }))
    const estimated = await estimates(candidates.map(({ spread }) => spread))
    const order = [...candidates.keys()].sort((a, b) => estimated[a] - estimated[b])
    const tried = order.slice(0, finalists).map(i => candidates[i])
    const [before, ...found] = await losses([undefined, ...tried.map(({ spread }) => spread)])
    let best: ChosenScales | undefined
    for (const [i, { spread: _, ...candidate }] of tried.entries())
      if (found[i] < (best?.loss ?? before)) best = { ...candidate, loss: found[i], before }
    return best
  },
}
