import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { ActOrder, Bits } from '../src/contracts.ts'
import { dequantize } from '../src/dequantize.ts'
import { randomLinear } from './format/linears.ts'

const linears = fc
  .record({
    out: fc.integer({ min: 1, max: 9 }),
    size: fc.integer({ min: 1, max: 9 }),
    groups: fc.integer({ min: 1, max: 6 }),
    bits: fc.constantFrom<Bits>(2, 3, 4, 8),
    order: fc.constantFrom<ActOrder>('none', 'g_idx'),
    seed: fc.integer(),
  })
  .map(({ size, ...spec }) => randomLinear({ ...spec, in: size * spec.groups, lowest: 0 }))

describe('dequantize', () => {
  it('is (q − z) · s of the column’s group, rounded once to float32', () => {
    fc.assert(
      fc.property(linears, linear => {
        const { in: inputs, out, codes, scales, zeros, groupOf } = linear
        const groups = scales.length / out
        const expected = Float32Array.from(codes, (code, i) => {
          const parameters = Math.floor(i / inputs) * groups + groupOf[i % inputs]
          return (code - zeros[parameters]) * scales[parameters]
        })
        expect(dequantize(linear)).toEqual(expected)
      }),
    )
  })

  it('overwrites the array it is given', () => {
    const linear = randomLinear({ out: 5, in: 12, bits: 4, groups: 3, order: 'g_idx', lowest: 0, seed: 1 })
    const into = new Float32Array(60).fill(Number.NaN)
    expect(dequantize(linear, into)).toBe(into)
    expect(into).toEqual(dequantize(linear))
  })
})
