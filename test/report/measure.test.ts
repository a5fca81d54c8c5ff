import fc from 'fast-check'
import { expect, it } from 'vitest'
import { decibels, weightError } from '../../src/report/measure.ts'

it('decibels is 10 log10, to 1e-11 over the whole range of numbers', () => {
  const ratios = fc.double({ min: 1e-300, max: 1e300, noNaN: true })
  fc.assert(
    fc.property(ratios, ratio => {
      expect(decibels(ratio, 1)).toBeCloseTo(10 * Math.log10(ratio), 10)
    }),
  )
  expect([decibels(1, 1), decibels(0, 1), decibels(1, 0), decibels(0, 0)]).toEqual([0, null, null, null])
})

it('weightError divides by the weights, and has no SQNR when nothing is lost, or nothing was there', () => {
  const sums = { energy: 100, errorEnergy: 1, largest: 0.25, clipped: 0 }
  expect(weightError(4, sums)).toEqual({
    weights: 4,
    mse: 0.25,
    sqnrDb: expect.closeTo(20, 12),
    maxAbsError: 0.5,
    energy: 100,
    errorEnergy: 1,
  })
  expect(weightError(4, { ...sums, errorEnergy: 0 }).sqnrDb).toBeNull()
  expect(weightError(4, { ...sums, energy: 0 }).sqnrDb).toBeNull()
})
