/** How far a linear's stored weights are from the original ones (docs/report.md defines each figure). */
import type { RowSums } from '../engine/kernel/measure.ts'

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

/** Sums over `weights` weights as the error that a report shows. */
export const weightError = (weights: number, { energy, errorEnergy, largest }: RowSums): WeightError => ({
  weights,
  mse: errorEnergy / weights,
  sqnrDb: decibels(energy, errorEnergy),
  maxAbsError: Math.sqrt(largest), // exact: in binary floating point √(d²) rounds back to |d|
  energy,
  errorEnergy,
})
