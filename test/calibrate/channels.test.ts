import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { binOf, createChannels, histogramBins, isFiniteBin } from '../../src/calibrate/channels.ts'
import type { StatisticName } from '../../src/contracts.ts'
import { uniform } from '../helpers/linears.ts'

const all = new Set<StatisticName>(['channels', 'histogram'])

/** The statistics of tokens [rows, width], given in chunks of so many tokens. */
const collect = (tokens: Float32Array, width: number, chunks: readonly number[]) => {
  const accumulator = createChannels(width, all)
  let from = 0
  for (const rows of chunks) {
    const transposed = Float32Array.from(
      { length: width * rows },
      (_, at) => tokens[(from + (at % rows)) * width + Math.floor(at / rows)],
    )
    accumulator.add(transposed, rows)
    from += rows
  }
  const { channels, histogram } = accumulator.finish()
  return { ...channels!, histogram: histogram! }
}

/** The bin of one value. */
const binFor = (value: number): number => collect(Float32Array.of(value), 1, [1]).histogram.indexOf(1)

const subnormals = fc
  .integer({ min: 0, max: 2 ** 23 - 1 })
  .map(bits => new Float32Array(Uint32Array.of(bits).buffer)[0])
const numbers = fc.oneof(
  fc.float({ noNaN: true, noDefaultInfinity: true }),
  subnormals,
  subnormals.map(value => -value),
  fc.constantFrom(
    0,
    -0,
    1,
    -1,
    2 ** -149,
    -(2 ** -149),
    2 ** -126,
    3.4028234663852886e38,
    -3.4028234663852886e38,
    0.9375,
  ),
)

describe('the histogram', () => {
  it('counts each value in the bin that says it holds it', () => {
    fc.assert(
      fc.property(numbers, value => {
        const { negative, start, width } = binOf(binFor(value))
        expect(Math.abs(value)).toBeGreaterThanOrEqual(start)
        expect(Math.abs(value)).toBeLessThan(start + width)
        expect(negative).toBe(Object.is(value, -0) || value < 0)
      }),
      { numRuns: 5000 },
    )
  })

  it('has bins that follow each other without gaps, eight an octave', () => {
    for (const half of [0, histogramBins / 2])
      for (let bin = half; isFiniteBin(bin + 1) && bin + 1 < half + histogramBins / 2; bin++) {
        const { start, width } = binOf(bin)
        expect(start + width).toBe(binOf(bin + 1).start)
      }
    expect(binOf(0)).toEqual({ negative: false, start: 0, width: 2 ** -129 })
    expect(binOf(127 * 8 + 1)).toEqual({ negative: false, start: 1.125, width: 0.125 })
  })

  it('knows the bins of what is no number', () => {
    expect(isFiniteBin(binFor(3.4028234663852886e38))).toBe(true)
    for (const value of [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN])
      expect(isFiniteBin(binFor(value))).toBe(false)
  })

  it('counts every value once', () => {
    fc.assert(
      fc.property(fc.array(numbers, { minLength: 1, maxLength: 60 }), values => {
        const { histogram } = collect(Float32Array.from(values), 1, [values.length])
        const expected = new Float64Array(histogramBins)
        for (const value of values) expected[binFor(value)]++
        expect(histogram).toEqual(expected)
      }),
      { numRuns: 200 },
    )
  })
})

describe('channels', () => {
  const width = 7
  const count = 500
  const random = uniform(11)
  const tokens = Float32Array.from({ length: width * count }, (_, i) => random() * 4 ** (i % width) + (i % 3))
  const whole = collect(tokens, width, [count])

  it('are what plain sums over each channel give', () => {
    for (let channel = 0; channel < width; channel++) {
      const values = Array.from({ length: count }, (_, token) => tokens[token * width + channel])
      const mean = values.reduce((sum, value) => sum + value, 0) / count
      const absMean = values.reduce((sum, value) => sum + Math.abs(value), 0) / count
      expect(whole.mean[channel]).toBe(Math.fround(mean))
      expect(whole.absMean[channel]).toBe(Math.fround(absMean))
      expect(whole.low[channel]).toBe(Math.min(...values))
      expect(whole.high[channel]).toBe(Math.max(...values))
    }
  })

  it.each([
    ['one token at a time', Array.from({ length: count }, () => 1)],
    ['chunks of unequal size', [1, 99, 0, 256, 3, 141]],
    ['two halves', [250, 250]],
  ])('do not depend on how the tokens come: %s', (_, chunks) => {
    const found = collect(tokens, width, chunks)
    expect(found.low).toEqual(whole.low)
    expect(found.high).toEqual(whole.high)
    expect(found.histogram).toEqual(whole.histogram)
    for (let channel = 0; channel < width; channel++) {
      // sums in float64 in another order, then one rounding to float32
      const ulp = 2 ** -23 * whole.absMean[channel]
      expect(Math.abs(found.mean[channel] - whole.mean[channel])).toBeLessThanOrEqual(ulp)
      expect(Math.abs(found.absMean[channel] - whole.absMean[channel])).toBeLessThanOrEqual(ulp)
    }
  })

  it('are 0 where nothing came', () => {
    const { mean, absMean, low, high, histogram } = collect(new Float32Array(), 3, [])
    for (const values of [mean, absMean, low, high]) expect([...values]).toEqual([0, 0, 0])
    expect(histogram.every(bin => bin === 0)).toBe(true)
  })

  it('collects only what is asked for', () => {
    const accumulator = createChannels(2, new Set<StatisticName>(['channels']))
    accumulator.add(Float32Array.of(1, 2, 3, 4), 2)
    expect(accumulator.finish()).toEqual({
      channels: {
        mean: Float32Array.of(1.5, 3.5),
        absMean: Float32Array.of(1.5, 3.5),
        low: Float32Array.of(1, 3),
        high: Float32Array.of(2, 4),
      },
    })
  })
})
