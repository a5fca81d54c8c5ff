import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { actOrder } from '../../src/quantize/act-order.ts'

describe('actOrder', () => {
  it('puts the most active channel first and keeps the natural order of equals', () => {
    expect([...actOrder(Float32Array.of(1, 4, 0, 4, 2, 1))]).toEqual([1, 3, 4, 0, 5, 2])
    expect([...actOrder([])]).toEqual([])
  })

  it('is a permutation, descending, stable', () => {
    const activity = fc.oneof(fc.float({ min: 0, noNaN: true }), fc.integer({ min: 0, max: 3 }))
    fc.assert(
      fc.property(fc.array(activity, { maxLength: 200 }), diagonal => {
        const order = actOrder(Float32Array.from(diagonal))
        expect([...order].sort((a, b) => a - b)).toEqual([...diagonal.keys()])
        for (let i = 1; i < order.length; i++) {
          const [before, after] = [Math.fround(diagonal[order[i - 1]]), Math.fround(diagonal[order[i]])]
          expect(before > after || (before === after && order[i - 1] < order[i])).toBe(true)
        }
      }),
    )
  })
})
