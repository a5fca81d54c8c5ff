import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Bits } from '../../src/contracts.ts'
import { clips } from '../../src/quantize/clip/index.ts'
import {
  bestCandidate,
  candidatesOf,
  type FitRule,
  fitGroup,
  fitJointly,
  normalizedWeighting,
} from '../../src/quantize/fit.ts'
import { type Parameters, rangeOf } from '../../src/quantize/grid/coder.ts'
import { coderOf } from '../../src/quantize/grid/index.ts'
import { uniformGrid } from '../../src/quantize/grid/uniform.ts'
import { f16Storage, randomWeights } from '../helpers/linears.ts'

const ruleOf = (bits: Bits, symmetric: boolean, clip: 'minmax' | 'mse'): FitRule => ({
  grid: uniformGrid(bits, symmetric),
  clip: clips[clip],
  storage: f16Storage,
})

/** Weights with tails, so that a smaller range can be better. */
const heavyTailed = (length: number, seed: number): Float32Array =>
  randomWeights(1, length, seed, 1).map(weight => 0.1 * weight ** 5)

const rules = fc
  .tuple(fc.constantFrom<Bits>(2, 3, 4, 8), fc.boolean())
  .map(([bits, symmetric]) => ruleOf(bits, symmetric, 'mse'))
const seeds = fc.integer({ min: 1, max: 1e6 })

const coderIn = ({ grid, storage }: FitRule) => coderOf(grid, storage)

/** Σ weighting · (w − decoded)² in float64. */
const squaredError = (weights: Float32Array, weighting: Float32Array, parameters: Parameters, rule: FitRule): number =>
  weights.reduce((sum, weight, i) => {
    const coder = coderIn(rule)
    const decoded = coder.decode(coder.encode(weight, parameters), parameters)
    return sum + weighting[i] * (weight - decoded) ** 2
  }, 0)

describe('the range', () => {
  it('holds every weight, and zero', () => {
    expect(rangeOf([3, -2, 5])).toEqual({ low: -2, high: 5 })
    expect(rangeOf([3, 5])).toEqual({ low: 0, high: 5 })
    expect(rangeOf([-3, -5])).toEqual({ low: -5, high: 0 })
    expect(rangeOf([])).toEqual({ low: 0, high: 0 })
  })

  it('is the clip under minmax', () => {
    const weights = heavyTailed(30, 3)
    const rule = ruleOf(4, false, 'minmax')
    const ones = new Float32Array(30).fill(1)
    expect(fitGroup(weights, ones, rule)).toEqual(coderIn(rule).parameters(rangeOf(weights)))
  })

  it('is tried at 1, 0.99 … 0.21 of itself under mse', () => {
    expect([...clips.mse.shrinks]).toEqual(Array.from({ length: 80 }, (_, i) => Math.fround((100 - i) / 100)))
    expect([...clips.minmax.shrinks]).toEqual([1])
  })
})

describe('the clip of least error', () => {
  it('loses least of all that are tried, each column counted by its weighting', () => {
    fc.assert(
      fc.property(rules, seeds, (rule, seed) => {
        const weights = heavyTailed(32, seed)
        const weighting = randomWeights(1, 32, seed + 1, 1).map(Math.abs)
        const chosen = squaredError(weights, weighting, fitGroup(weights, weighting, rule), rule)
        const all = candidatesOf(rangeOf(weights), rule.clip, coderIn(rule)).map(each =>
          squaredError(weights, weighting, each, rule),
        )
        expect(all.length).toBe(80)
        expect(chosen).toBeLessThanOrEqual(Math.min(...all) * (1 + 2e-3))
      }),
    )
  })

  it('does not see a column of weighting 0', () => {
    const rule = ruleOf(3, true, 'mse')
    const weights = Float32Array.of(...heavyTailed(31, 5), 0.3)
    const weighting = new Float32Array(32).fill(1)
    const { scale } = fitGroup(weights, weighting, rule)
    weighting[31] = 0
    expect(fitGroup(weights, weighting, rule).scale).toBeLessThan(scale)
  })

  it('is the whole range where nothing counts', () => {
    const weights = heavyTailed(32, 7)
    const [plain, mse] = (['minmax', 'mse'] as const).map(clip =>
      fitGroup(weights, new Float32Array(32), ruleOf(4, true, clip)),
    )
    expect(mse).toEqual(plain)
  })

  it('scales with the weights by a power of two', () => {
    fc.assert(
      fc.property(rules, seeds, fc.integer({ min: 0, max: 8 }), (rule, seed, power) => {
        const weights = heavyTailed(32, seed).map(weight => weight + 0.1 * Math.sign(weight))
        const ones = new Float32Array(32).fill(1)
        const { scale, offset } = fitGroup(weights, ones, rule)
        const scaled = weights.map(weight => weight * 2 ** power)
        expect(fitGroup(scaled, ones, rule)).toEqual({ scale: scale * 2 ** power, offset })
      }),
    )
  })

  it('is the first of equals', () => {
    const candidates = [1, 0.5, 0.25].map(scale => ({ scale, offset: 0 }))
    expect(bestCandidate(candidates, [1, 4, 16], Math.fround)).toBe(candidates[0])
    expect(bestCandidate(candidates, [2, 4, 16], Math.fround)).toBe(candidates[1])
  })
})

describe('one scale for all rows', () => {
  const rows = Array.from({ length: 7 }, (_, row) => heavyTailed(12, row + 1))
  const weighting = randomWeights(1, 12, 9, 1).map(Math.abs)
  const flat = Float32Array.from(rows.flatMap(row => [...row]))
  const flatWeighting = Float32Array.from(rows.flatMap(() => [...weighting]))

  it('has the range of all', () => {
    const rule = ruleOf(4, false, 'minmax')
    expect(fitJointly(rows, weighting, rule)).toEqual(fitGroup(flat, flatWeighting, rule))
  })

  it('loses least over all under mse', () => {
    const rule = ruleOf(3, false, 'mse')
    const loss = (parameters: Parameters) => squaredError(flat, flatWeighting, parameters, rule)
    const least = Math.min(...candidatesOf(rangeOf(flat), rule.clip, coderIn(rule)).map(loss))
    expect(loss(fitJointly(rows, weighting, rule))).toBeLessThanOrEqual(least * (1 + 2e-3))
  })
})

describe('the weighting of columns', () => {
  it('has the largest value 1', () => {
    expect([...normalizedWeighting(4, Float32Array.of(2, 8, 0, 4))]).toEqual([0.25, 1, 0, 0.5])
  })

  it('is 1 throughout without data, and where nothing or too much was seen', () => {
    const ones = [1, 1, 1]
    expect([...normalizedWeighting(3)]).toEqual(ones)
    expect([...normalizedWeighting(3, new Float32Array(3))]).toEqual(ones)
    expect([...normalizedWeighting(3, Float32Array.of(1, Number.POSITIVE_INFINITY, 2))]).toEqual(ones)
  })
})
