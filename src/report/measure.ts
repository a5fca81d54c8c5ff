/** How far a linear's stored weights are from the original ones (docs/report.md defines each figure). */
import type { QuantizedLinear } from '../contracts.ts'

export interface WeightError {
  /** Weights compared. */
  readonly weights: number
  /** Σ (w − ŵ)² / weights. */
  readonly mse: number
  /** 10 log10(Σ w² / Σ (w − ŵ)²), in dB; null when nothing was lost, or when all weights are 0. */
  readonly sqnrDb: number | null
  /** max |w − ŵ|. */
  readonly maxAbsError: number
  /** Σ w² and Σ (w − ŵ)², for totals over several linears. */
  readonly energy: number
  readonly errorEnergy: number
}

/**
 * Natural logarithm by + − × ÷ alone, so that a report has the same bytes under every Node version (Math.log differs in the last bit).
 * x = m · 2^e with m in [√½, √2); ln m = 2 artanh((m − 1) / (m + 1)). Relative error below 1e-14.
 */
const logarithm = (x: number): number => {
  let m = x
  let exponent = 0
  for (; m >= Math.SQRT2; m /= 2) exponent++
  for (; m < Math.SQRT1_2; m *= 2) exponent--
  const t = (m - 1) / (m + 1)
  let sum = 0
  for (let n = 23; n >= 1; n -= 2) sum = sum * t * t + 1 / n
  return exponent * Math.LN2 + 2 * t * sum
}

/** 10 log10(signal / noise) in dB, or null where there is no finite value. */
export const decibels = (signal: number, noise: number): number | null => {
  const ratio = signal / noise
  return ratio > 0 && Number.isFinite(ratio) ? (10 * logarithm(ratio)) / Math.LN10 : null
}

/**
 * One pass, sums in float64, two chains of additions: 1.8 ns a weight. With four chains V8 runs out of registers: 11 ns.
 * @param original [out, in], as the source stores it
 * @param decoded [out, in], as the reopened output decodes
 */
export const measureLinear = (original: Float32Array, decoded: Float32Array): WeightError => {
  if (original.length !== decoded.length || original.length === 0)
    throw new Error(`cannot compare ${original.length} weights with ${decoded.length}`)
  let energy0 = 0
  let energy1 = 0
  let error0 = 0
  let error1 = 0
  let largest = 0
  const last = original.length - 1
  for (let i = 0; i <= last; i += 2) {
    const a = original[i]
    const b = i < last ? original[i + 1] : 0
    const differenceA = a - decoded[i]
    const differenceB = i < last ? b - decoded[i + 1] : 0
    const squareA = differenceA * differenceA
    const squareB = differenceB * differenceB
    energy0 += a * a
    energy1 += b * b
    error0 += squareA
    error1 += squareB
    if (squareA > largest) largest = squareA
    if (squareB > largest) largest = squareB
  }
  const energy = energy0 + energy1
  const errorEnergy = error0 + error1
  return {
    weights: original.length,
    mse: errorEnergy / original.length,
    sqnrDb: decibels(energy, errorEnergy),
    maxAbsError: Math.sqrt(largest), // exact: in binary floating point √(d²) rounds back to |d|
    energy,
    errorEnergy,
  }
}

/**
 * Share of weights that lie outside the range their codes can reach: coded 0 or 2^bits − 1, and beyond that code's value by more than
 * half a step. Rounding alone never does that.
 * @param original [out, in]
 */
export const clippedFraction = (original: Float32Array, linear: QuantizedLinear): number => {
  const { out, in: inputs, bits, codes, scales, zeros, groupOf } = linear
  const groups = scales.length / out
  const maxCode = (1 << bits) - 1
  let clipped = 0
  for (let row = 0; row < out; row++) {
    const start = row * inputs
    for (let col = 0; col < inputs; col++) {
      const code = codes[start + col]
      if (code !== 0 && code !== maxCode) continue
      const group = row * groups + groupOf[col]
      const scale = scales[group]
      const beyond = original[start + col] - (code - zeros[group]) * scale
      const outward = code === 0 ? -beyond : beyond
      if (scale < 0 ? -outward > -scale / 2 : outward > scale / 2) clipped++
    }
  }
  return clipped / (out * inputs)
}
