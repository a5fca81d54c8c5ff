import { describe, expect, it } from 'vitest'
import type { Statistics } from '../../src/contracts.ts'
import { awq } from '../../src/transform/awq.ts'
import { channelsBehind, type Fold } from '../../src/transform/fold.ts'
import { smoothquant } from '../../src/transform/smoothquant.ts'
import type { TapToScale } from '../../src/transform/transform.ts'
import { randomWeights, uniform } from '../helpers/linears.ts'

const width = 16
const fold: Fold = { channels: width, channelOf: channelsBehind(width), divided: [], via: 'norm', producer: 'norm' }

const statisticsOf = (magnitudes: Float32Array): Statistics => ({
  count: 1,
  gram: new Float32Array(width * width),
  channels: {
    mean: new Float32Array(width),
    absMean: magnitudes,
    low: magnitudes.map(value => -value),
    high: magnitudes,
  },
})

const random = uniform(5)
const magnitudes = Float32Array.from({ length: width }, () => 0.1 + 5 * Math.abs(random()))
const linears: TapToScale['linears'] = [8, 4].map((out, i) => ({
  ...{ out, in: width, group: 8 },
  weights: randomWeights(out, width, i + 1),
}))

type Loss = (factors?: Float32Array) => number

const tap = (loss: Loss, more: Partial<TapToScale> = {}): TapToScale => {
  const losses: TapToScale['losses'] = async candidates => candidates.map(loss)
  return {
    ...{ fold, statistics: statisticsOf(magnitudes), linears, alpha: 0.5, losses, estimates: losses },
    ...more,
  }
}

const columnMaxima = (): number[] =>
  Array.from({ length: width }, (_, column) =>
    Math.max(...linears.flatMap(({ weights }) => [...weights].filter((_, i) => i % width === column).map(Math.abs))),
  )

describe('smoothquant', () => {
  const factorsAt = async (alpha: number) => (await smoothquant.fit(tap(() => 0, { alpha })))!.factors

  it('alpha 1: inputs reach 1', async () => {
    const factors = await factorsAt(1)
    for (const [i, factor] of factors.entries()) expect(magnitudes[i] / factor).toBeCloseTo(1, 5)
  })

  it('alpha 0: columns of weights reach 1', async () => {
    const factors = await factorsAt(0)
    for (const [i, most] of columnMaxima().entries()) expect(most * factors[i]).toBeCloseTo(1, 5)
  })

  it('alpha 0.5: both reach the same', async () => {
    const factors = await factorsAt(0.5)
    for (const [i, most] of columnMaxima().entries())
      expect(magnitudes[i] / factors[i] / (most * factors[i])).toBeCloseTo(1, 5)
  })

  it('leaves a channel that was never seen alone', async () => {
    const seen = magnitudes.slice()
    seen[3] = 0
    const found = await smoothquant.fit(tap(() => 0, { statistics: statisticsOf(seen) }))
    expect(found!.factors[3]).toBe(1)
  })
})

describe('awq', () => {
  /** Least where factor 0 over factor 1 is nearest to a ratio. */
  const lossNear =
    (ratio: number): Loss =>
    factors =>
      factors ? Math.abs(Math.log(factors[0] / factors[1] / ratio)) : 10

  it('takes the exponent of least loss, whatever scale factors have in common', async () => {
    const strong = magnitudes.slice()
    strong[0] = 100 * strong[1]
    const statistics = statisticsOf(strong)
    const chosen = await Promise.all(
      [1, 3, 10, 30].map(async ratio => (await awq.fit(tap(lossNear(ratio), { statistics })))!),
    )
    const exponents = chosen.map(({ exponent }) => exponent)
    expect(exponents).toEqual([...exponents].sort((a, b) => a - b))
    expect(new Set(exponents).size).toBeGreaterThan(2)
    for (const { factors, loss, before } of chosen) {
      expect(Math.min(...factors) * Math.max(...factors)).toBeCloseTo(1, 5)
      expect(loss!).toBeLessThan(before!)
    }
  })

  it('finds factors of inputs alone where weights need none', async () => {
    /** Least where factors are as the square roots of the inputs' magnitudes. */
    const lossOf: Loss = factors => {
      const logs = [...(factors ?? [])].map((factor, i) => Math.log(factor) - Math.log(magnitudes[i]) / 2)
      const mean = logs.reduce((sum, log) => sum + log, 0) / width
      return factors ? logs.reduce((sum, log) => sum + (log - mean) ** 2, 0) : 100
    }
    const found = (await awq.fit(tap(lossOf)))!
    expect([found.exponent, found.weightExponent]).toEqual([0.5, 0])
    expect(found.loss).toBeCloseTo(0, 8)
  })

  it('leaves an input alone when no scales are better than none', async () => {
    expect(await awq.fit(tap(factors => (factors ? 1 : 0.5)))).toBeUndefined()
  })

  it('asks for the loss over all rows of few candidates only', async () => {
    let [whole, sampled] = [0, 0]
    await awq.fit({
      ...tap(() => 0),
      losses: async candidates => candidates.map(() => ++whole),
      estimates: async candidates => candidates.map(() => ++sampled),
    })
    expect([whole, sampled]).toEqual([5, 19])
  })

  it('gives channels that share a factor one', async () => {
    const shared: Fold = { ...fold, channels: width / 2, channelOf: channelsBehind(width, [4, 2]), heads: [4, 2] }
    const found = await awq.fit(tap(factors => (factors ? 1 : 2), { fold: shared }))
    expect(found!.factors).toHaveLength(width / 2)
  })

  it.each<[TapToScale['linears'][number]['group'], number]>([
    [64, 64],
    ['channel', 192],
    ['block', 128],
  ])('measures weights within their groups: %s', async (group, size) => {
    const inputs = 192
    const wide: Fold = { ...fold, channels: inputs, channelOf: channelsBehind(inputs) }
    const weights = randomWeights(3, inputs, 9)
    const statistics: Statistics = {
      count: 1,
      gram: new Float32Array(0),
      channels: { ...statisticsOf(new Float32Array(inputs).fill(1)).channels! },
    }
    const found = await awq.fit(
      tap(factors => (factors ? 1 : 2), {
        ...{ fold: wide, statistics, linears: [{ out: 3, in: inputs, group, weights }] },
      }),
    )
    expect(found!.exponent).toBe(0) // then only weights count: s = 1 / w̄
    const relative = Array.from({ length: inputs }, (_, column) => {
      const first = Math.floor(column / size) * size
      const rows = [0, 1, 2].map(row => weights.subarray(row * inputs, (row + 1) * inputs).map(Math.abs))
      return rows.reduce((sum, row) => sum + row[column] / Math.max(...row.subarray(first, first + size)), 0) / 3
    })
    const products = relative.map((w, i) => w * found!.factors[i])
    for (const product of products) expect(product / products[0]).toBeCloseTo(1, 2)
  })
})
