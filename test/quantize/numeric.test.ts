import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { clamp, roundHalfEven } from '../../src/quantize/numeric.ts'

describe('roundHalfEven', () => {
  it.each([
    [0.5, 0],
    [1.5, 2],
    [2.5, 2],
    [-0.5, 0],
    [-1.5, -2],
    [-2.5, -2],
    [7.499999, 7],
    [4194302.5, 4194302],
    [-4194301.5, -4194302],
  ])('of %f is %i', (x, rounded) => expect(roundHalfEven(x) + 0).toBe(rounded))

  it('is the nearest integer, the even one of two', () => {
    const limit = 4194303
    const values = fc.oneof(
      fc.float({ min: -limit, max: limit, noNaN: true }),
      fc.integer({ min: -2 * limit, max: 2 * limit }).map(twice => twice / 2),
    )
    fc.assert(
      fc.property(values, x => {
        const rounded = roundHalfEven(x)
        const distance = Math.abs(x - rounded)
        expect(Number.isInteger(rounded)).toBe(true)
        expect(distance < 0.5 || (distance === 0.5 && rounded % 2 === 0)).toBe(true)
      }),
    )
  })
})

describe('clamp', () => {
  it.each([
    [-1, 0],
    [0, 0],
    [2.5, 2.5],
    [15, 15],
    [16, 15],
    [Number.POSITIVE_INFINITY, 15],
    [Number.NEGATIVE_INFINITY, 0],
    [Number.NaN, 0],
  ])('of %f to [0, 15] is %f', (x, clamped) => expect(clamp(x, 0, 15)).toBe(clamped))
})
