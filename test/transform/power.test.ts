import fc from 'fast-check'
import { expect, it } from 'vitest'
import { power } from '../../src/transform/power.ts'

it('is x^r to float32', () => {
  fc.assert(
    fc.property(
      fc.double({ min: 1e-12, max: 1e12, noNaN: true }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (x, r) => {
        expect(power(x, r) / x ** r).toBeCloseTo(1, 6)
      },
    ),
  )
})

it('is exact where roots are', () => {
  expect([0, 0.25, 0.5, 0.75, 1].map(r => power(16, r))).toEqual([1, 2, 4, 8, 16])
})
