/** What values look like, before a method is chosen: of every tap, from statistics on disk, and of every weight. */
import { binOf, histogramBins } from './calibrate/channels.ts'
import { type StatisticsFile, tapName } from './calibrate/statistics-file.ts'
import { readWeight } from './checkpoint/read-weight.ts'
import type { Checkpoint, Model, Stage } from './contracts.ts'

/** Steps of the histogram that people see: magnitudes in units of the root mean square, by powers of two. */
export const octaves = [-4, -3, -2, -1, 0, 1, 2, 3, 4, 5] as const

export interface Profile {
  /** Of a tap: the first linear that reads it. Of a weight: its module. */
  readonly name: string
  readonly min: number
  readonly max: number
  /** Root mean square. */
  readonly rms: number
  /** E[x⁴] / E[x²]²: 3 of a normal distribution, more with outliers. */
  readonly kurtosis: number
  /** Largest magnitude over rms. */
  readonly peak: number
  /** Channels (of a weight: columns) whose rms is more than 8 times the median of all. */
  readonly outlierChannels: number
  /** Of a tap: channels that reach a magnitude of 6, LLM.int8()'s threshold; null of a weight. */
  readonly channelsAbove6: number | null
  /** [10]: shares of values of magnitude up to 2^−4, 2^−3 … 2^4 times rms, and above. */
  readonly histogram: readonly number[]
}

/** How many times the median a channel's rms must be to stand out. */
const outlierFactor = 8

const median = (values: Float64Array): number => {
  const sorted = values.slice().sort()
  return sorted.length > 0 ? (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2 : 0
}

const outliers = (meanSquares: Float64Array): number => {
  const usual = median(meanSquares.map(Math.sqrt))
  return meanSquares.reduce((count, square) => count + (Math.sqrt(square) > outlierFactor * usual ? 1 : 0), 0)
}

/** The step of the histogram that a magnitude belongs to. */
const octaveOf = (ratio: number): number => {
  const step = octaves.findIndex(octave => ratio <= 2 ** octave)
  return step < 0 ? octaves.length - 1 : step
}

const ratio = (a: number, b: number): number => (b > 0 ? a / b : 0)

/** Of a tap: moments from the histogram, whose bins are an eighth of an octave wide (kurtosis is right to about 1 %). */
const tapProfile = (file: StatisticsFile, stage: Stage): Profile => {
  const { gram, channels, histogram } = file.read(tapName(stage))
  const squares = Float64Array.from({ length: stage.width }, (_, i) => gram[i * stage.width + i])
  const meanSquare = squares.reduce((sum, square) => sum + square, 0) / stage.width
  const rms = Math.sqrt(meanSquare)
  const { low, high } = channels!
  const largest = low.map((value, i) => Math.max(-value, high[i]))
  const counts = octaves.map(() => 0)
  let [total, fourth] = [0, 0]
  for (let bin = 0; bin < histogramBins; bin++) {
    const count = histogram![bin]
    if (count === 0) continue
    const { start, width } = binOf(bin)
    const middle = start + width / 2
    total += count
    fourth += count * middle ** 4
    counts[octaveOf(ratio(middle, rms))] += count
  }
  return {
    name: tapName(stage),
    min: low.reduce((a, b) => Math.min(a, b)),
    max: high.reduce((a, b) => Math.max(a, b)),
    rms,
    kurtosis: ratio(ratio(fourth, total), meanSquare ** 2),
    peak: ratio(
      largest.reduce((a, b) => Math.max(a, b)),
      rms,
    ),
    outlierChannels: outliers(squares),
    channelsAbove6: largest.reduce((count, value) => count + (value >= 6 ? 1 : 0), 0),
    histogram: counts.map(count => ratio(count, total)),
  }
}

const weightProfile = (name: string, values: Float32Array, inputs: number): Profile => {
  const squares = new Float64Array(inputs)
  let [min, max, fourth] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0]
  for (let i = 0; i < values.length; i++) {
    const value = values[i]
    const square = value * value
    squares[i % inputs] += square
    fourth += square * square
    if (value < min) min = value
    if (value > max) max = value
  }
  const meanSquare = squares.reduce((sum, square) => sum + square, 0) / values.length
  const rms = Math.sqrt(meanSquare)
  const counts = octaves.map(() => 0)
  for (const value of values) counts[octaveOf(ratio(Math.abs(value), rms))]++
  return {
    ...{ name, min, max, rms },
    kurtosis: ratio(fourth / values.length, meanSquare ** 2),
    peak: ratio(Math.max(max, -min), rms),
    outlierChannels: outliers(squares),
    channelsAbove6: null,
    histogram: counts.map(count => count / values.length),
  }
}

export interface ModelProfile {
  readonly taps: readonly Profile[]
  readonly weights: readonly Profile[]
}

/** Weights are read one at a time. @throws QuantizeError bad-input as the reading of statistics and weights */
export const profileModel = (checkpoint: Checkpoint, { blocks }: Model, file: StatisticsFile): ModelProfile => {
  const stages = blocks.flatMap(block => block.stages)
  return {
    taps: stages.map(stage => tapProfile(file, stage)),
    weights: stages
      .flatMap(stage => stage.linears)
      .map(({ name, weight, in: inputs }) => weightProfile(name, readWeight(checkpoint, weight).data, inputs)),
  }
}
