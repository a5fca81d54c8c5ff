import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  columnGroups,
  divisorsNear,
  divisorsOf,
  fitsInSweep,
  granularity,
  groupRefusal,
  naturalOrder,
} from '../../src/quantize/granularity.ts'
import { shuffled } from '../helpers/linears.ts'

describe('granularity', () => {
  it.each([
    [32, { groups: 3, size: 32, joint: false }],
    [96, { groups: 1, size: 96, joint: false }],
    [1, { groups: 96, size: 1, joint: false }],
    ['channel', { groups: 1, size: 96, joint: false }],
    ['tensor', { groups: 1, size: 96, joint: true }],
  ] as const)('group %s of 96 inputs', (group, shape) => expect(granularity(group, 96)).toEqual(shape))

  it.each([0, -8, 2.5, 64, 97, Number.NaN])('refuses group %d of 96 inputs', group => {
    expect(() => granularity(group, 96)).toThrow(expect.objectContaining({ code: 'unsupported' }))
  })

  it('names the groups nearest to the one that does not divide', () => {
    expect(groupRefusal(32, 96)).toBeUndefined()
    expect(groupRefusal(128, 96)).toContain('group 128 does not divide 96 inputs; use 24, 32, 48, 96, channel')
    expect(groupRefusal(128, 576)).toContain('use 72, 96, 144, 192,')
    expect(groupRefusal(4, 7)).toContain('use 7, channel')
    expect(groupRefusal(4, 1)).toContain('use 1, channel')
  })
})

describe('divisors', () => {
  const numbers = fc.integer({ min: 1, max: 5000 })

  it('are all that divide, ascending', () => {
    fc.assert(
      fc.property(numbers, n => {
        expect(divisorsOf(n)).toEqual(Array.from({ length: n }, (_, i) => i + 1).filter(d => n % d === 0))
      }),
    )
  })

  it('near a size: none that is left out is nearer by ratio', () => {
    const distance = (d: number, size: number) => Math.abs(Math.log(d / size))
    fc.assert(
      fc.property(numbers, numbers, (size, n) => {
        const near = divisorsNear(size, n)
        const far = Math.max(...near.map(d => distance(d, size)))
        for (const d of divisorsOf(n))
          if (d > 1 && !near.includes(d)) expect(distance(d, size)).toBeGreaterThanOrEqual(far - 1e-12)
        expect(near).toEqual([...near].sort((a, b) => a - b))
      }),
    )
  })
})

describe('the groups of columns', () => {
  const n = 24
  const order = shuffled(n, 3)
  const shape = granularity(8, n)

  it.each(['none', 'static'] as const)('are runs of the natural order under act-order %s', actOrder => {
    expect([...columnGroups(shape, actOrder, order)]).toEqual(Array.from({ length: n }, (_, column) => column >> 3))
  })

  it('are runs of the sweep under g_idx', () => {
    const groupOf = columnGroups(shape, 'g_idx', order)
    expect(Array.from(order, column => groupOf[column])).toEqual(Array.from({ length: n }, (_, at) => at >> 3))
  })

  it('are fitted as the sweep reaches them, unless they are runs of another order or whole rows', () => {
    expect(([8, 'channel', 'tensor'] as const).map(group => fitsInSweep(group, 'none'))).toEqual([true, false, false])
    expect(([8, 'channel'] as const).map(group => fitsInSweep(group, 'static'))).toEqual([false, false])
    expect(fitsInSweep(8, 'g_idx')).toBe(true)
    expect([...naturalOrder(4)]).toEqual([0, 1, 2, 3])
  })
})
