/** What each channel of a tap does, and how its values are spread: sums and extremes beside the Gram matrix. */
import type { ChannelStatistics, StatisticName } from '../contracts.ts'

/**
 * Bins of the histogram: the 12 leading bits of a float32. Eight bins an octave hold every value there is, wherever it lies, so that
 * histograms of any texts can be added.
 */
export const histogramBins = 4096
const leadingShift = 20

export interface ChannelAccumulator {
  /** @param transposed [width, rows]: one row a channel, one column a token; finite */
  add(transposed: Float32Array, rows: number): void
  /** Means are 0 where nothing was added. */
  finish(): { readonly channels?: ChannelStatistics; readonly histogram?: Float64Array }
}

/** Sums in float64, in the order of the chunks. */
export const createChannels = (width: number, wanted: ReadonlySet<StatisticName>): ChannelAccumulator => {
  const sums = new Float64Array(width)
  const absSums = new Float64Array(width)
  const low = new Float32Array(width)
  const high = new Float32Array(width)
  const histogram = wanted.has('histogram') ? new Float64Array(histogramBins) : undefined
  let count = 0
  const addChannel = (values: Float32Array, channel: number): void => {
    let [sum, absSum] = [0, 0]
    let least = count === 0 ? values[0] : low[channel]
    let most = count === 0 ? values[0] : high[channel]
    for (let i = 0; i < values.length; i++) {
      const value = values[i]
      sum += value
      absSum += Math.abs(value)
      if (value < least) least = value
      if (value > most) most = value
    }
    sums[channel] += sum
    absSums[channel] += absSum
    low[channel] = least
    high[channel] = most
  }
  return {
    add(transposed, rows) {
      if (rows === 0) return
      for (let channel = 0; channel < width; channel++)
        addChannel(transposed.subarray(channel * rows, (channel + 1) * rows), channel)
      if (histogram) {
        const bits = new Uint32Array(transposed.buffer, transposed.byteOffset, width * rows)
        for (let i = 0; i < bits.length; i++) histogram[bits[i] >>> leadingShift]++
      }
      count += rows
    },
    finish: () => ({
      ...(wanted.has('channels')
        ? {
            channels: {
              mean: Float32Array.from(sums, sum => sum / (count || 1)),
              absMean: Float32Array.from(absSums, sum => sum / (count || 1)),
              low,
              high,
            },
          }
        : {}),
      ...(histogram ? { histogram } : {}),
    }),
  }
}

/** The least magnitude of each bin, and its width: a value of bin b lies in sign · [start, start + width). */
export const binOf = (bin: number): { readonly negative: boolean; readonly start: number; readonly width: number } => {
  const exponent = (bin >>> 3) & 0xff
  const eighth = bin & 7
  const step = 2 ** (Math.max(exponent, 1) - 127 - 3)
  return { negative: bin >= histogramBins / 2, start: (exponent === 0 ? eighth : 8 + eighth) * step, width: step }
}

/** Whether a bin's values are numbers: the largest exponent is that of NaN and the infinities. */
export const isFiniteBin = (bin: number): boolean => ((bin >>> 3) & 0xff) < 0xff
