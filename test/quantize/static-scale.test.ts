import { describe, expect, it } from 'vitest'
import { createChannels } from '../../src/calibrate/channels.ts'
import type { ActivationScheme, Statistics } from '../../src/contracts.ts'
import { withStaticScale } from '../../src/quantize/static-scale.ts'
import { uniform } from '../helpers/linears.ts'

const width = 4
const tokens = 5000

/** Sums of uniform numbers, so nearly normal; one of them far out. */
const statisticsOf = (outlier: number, offset = 0): Statistics => {
  const random = uniform(11)
  const values = Float32Array.from({ length: width * tokens }, () => {
    let sum = offset
    for (let i = 0; i < 12; i++) sum += random() / 2
    return sum
  })
  values[7] = outlier
  const channels = createChannels(width, new Set(['channels', 'histogram']))
  channels.add(values, tokens)
  return { count: tokens, gram: new Float32Array(width * width), ...channels.finish() }
}

const int8: ActivationScheme = { grid: 'int8', symmetric: true, granularity: 'tensor', dynamic: false }
const asymmetric: ActivationScheme = { ...int8, symmetric: false }

describe('a stored scale of inputs', () => {
  it('from extremes: 127.5 steps to the largest magnitude', () => {
    expect(withStaticScale(int8, statisticsOf(51), 'minmax', 'F32').scale).toBeCloseTo(51 / 127.5, 6)
    expect(withStaticScale({ ...int8, grid: 'fp8' }, statisticsOf(-44.8), 'minmax', 'F32').scale).toBeCloseTo(0.1, 6)
  })

  it('asymmetric: 255 steps over a range that holds 0', () => {
    const { scale, zero } = withStaticScale(asymmetric, statisticsOf(20, 3), 'minmax', 'F32')
    const { low } = statisticsOf(20, 3).channels!
    const least = Math.min(0, ...low)
    expect(scale).toBeCloseTo((20 - least) / 255, 5)
    expect(zero).toBe(Math.round(-128 - least / scale!))
    const positive = withStaticScale(asymmetric, statisticsOf(60, 20), 'minmax', 'F32')
    expect([positive.zero, positive.scale! * 255]).toEqual([-128, expect.closeTo(60, 4)])
  })

  it('of an input that is always 0 is positive', () => {
    const channels = createChannels(width, new Set(['channels', 'histogram']))
    channels.add(new Float32Array(width * 8), 8)
    const zeros = { count: 8, gram: new Float32Array(16), ...channels.finish() }
    for (const observer of ['minmax', 'mse', 'percentile'] as const)
      expect(withStaticScale(int8, zeros, observer, 'BF16').scale).toBeGreaterThan(0)
  })

  it('by squared error or percentile cuts a value that stands alone, and little else', () => {
    const alone = statisticsOf(200)
    const reach = (observer: 'minmax' | 'mse' | 'percentile', statistics = alone): number =>
      127.5 * withStaticScale(int8, statistics, observer, 'F32').scale!
    expect(reach('minmax')).toBeCloseTo(200, 3)
    expect(reach('percentile')).toBeLessThan(8)
    expect(reach('percentile')).toBeGreaterThan(3)
    expect(reach('mse')).toBeGreaterThan(reach('percentile'))
    const none = statisticsOf(0)
    expect(reach('mse', none) / reach('minmax', none)).toBeGreaterThan(0.8)
  })

  it('is rounded to the dtype that stores it', () => {
    const { scale } = withStaticScale(int8, statisticsOf(51), 'minmax', 'BF16')
    expect(new Uint32Array(Float32Array.of(scale!).buffer)[0] & 0xffff).toBe(0)
  })
})
