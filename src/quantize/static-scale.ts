/** Scale and zero point of inputs that a runtime quantizes by stored ones, from what the tap saw. */
import { binOf } from '../calibrate/channels.ts'
import type { ActivationObserver, ActivationScheme, Statistics } from '../contracts.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { roundScale } from './storage.ts'

/** Shares of the range that are tried. */
const shrinks = Array.from({ length: 80 }, (_, i) => 1 - i / 100)

/** Share of the values that `percentile` covers. */
const covered = 0.9999

interface Range {
  readonly low: number
  readonly high: number
}

/** Bins with their counts, from the most negative value to the most positive. */
const sortedBins = (histogram: Float64Array): readonly { readonly middle: number; readonly count: number }[] =>
  [...histogram.keys()]
    .filter(bin => histogram[bin] > 0)
    .map(bin => {
      const { negative, start, width } = binOf(bin)
      return { middle: (negative ? -1 : 1) * (start + width / 2), count: histogram[bin] }
    })
    .sort((a, b) => a.middle - b.middle)

/** Σ of squared errors with values clipped to a range and rounded to `codes` steps of it: Δ² / 12 within, the distance beyond. */
const squaredError = (bins: ReturnType<typeof sortedBins>, { low, high }: Range, codes: number): number => {
  const step = (high - low) / codes
  return bins.reduce((sum, { middle, count }) => {
    const beyond = Math.max(low - middle, middle - high, 0)
    return sum + count * (beyond > 0 ? beyond * beyond : (step * step) / 12)
  }, 0)
}

/** The largest magnitude below which so much of the values lies. */
const percentile = (bins: ReturnType<typeof sortedBins>): number => {
  const magnitudes = bins
    .map(({ middle, count }) => ({ size: Math.abs(middle), count }))
    .sort((a, b) => a.size - b.size)
  const total = magnitudes.reduce((sum, { count }) => sum + count, 0)
  let seen = 0
  for (const { size, count } of magnitudes) {
    seen += count
    if (seen >= covered * total) return size
  }
  return 0
}

const chosenRange = (
  extremes: Range,
  { histogram }: Statistics,
  observer: Exclude<ActivationObserver, 'dynamic'>,
  codes: number,
): Range => {
  if (observer === 'minmax') return extremes
  const bins = sortedBins(histogram!)
  const { low, high } = extremes
  if (observer === 'percentile') {
    const most = percentile(bins)
    return { low: Math.max(low, -most), high: Math.min(high, most) }
  }
  let best = extremes
  let least = Number.POSITIVE_INFINITY
  for (const shrink of shrinks) {
    const range = { low: low * shrink, high: high * shrink }
    const error = squaredError(bins, range, codes)
    if (error < least) [best, least] = [range, error]
  }
  return best
}

/** Smallest scale: of a tap that is always 0. */
const leastScale = 2 ** -23

/**
 * The scheme with its scale, and its zero point where it has one: 127.5 steps to each side of 0 or, asymmetric, 255 steps over a range that
 * holds 0; 448 of FP8 (compressed-tensors, quantization/utils/helpers.py).
 * @param statistics with channels; with a histogram where the observer looks at one
 * @param dtype in which the scale is stored
 */
export const withStaticScale = (
  scheme: ActivationScheme,
  statistics: Statistics,
  observer: Exclude<ActivationObserver, 'dynamic'>,
  dtype: WeightDtype,
): ActivationScheme => {
  const { low, high } = statistics.channels!
  const extremes = {
    low: low.reduce((a, b) => Math.min(a, b), 0),
    high: high.reduce((a, b) => Math.max(a, b), 0),
  }
  const most = Math.max(-extremes.low, extremes.high)
  const even = scheme.symmetric ? { low: -most, high: most } : extremes
  const range = chosenRange(even, statistics, scheme.grid === 'fp8' ? 'minmax' : observer, 255)
  const steps = scheme.grid === 'fp8' ? 2 * 448 : 255
  const scale = roundScale(Math.max(Math.fround((range.high - range.low) / steps), leastScale), dtype)
  if (scheme.symmetric) return { ...scheme, scale }
  return { ...scheme, scale, zero: Math.max(-128, Math.min(127, Math.round(-128 - range.low / scale))) }
}
