import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { editDistance, nearestName } from '../src/nearest.ts'

const word = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 6 })

describe('editDistance', () => {
  it.each([
    ['', '', 0],
    ['abc', '', 3],
    ['bits', 'bit', 1],
    ['gtpq', 'gptq', 1],
    ['group', 'groop', 1],
    ['kitten', 'sitting', 3],
  ])('%s to %s is %i', (a, b, distance) => expect(editDistance(a, b)).toBe(distance))

  it('is symmetric, zero only for equals, and at most one for one edit', () => {
    fc.assert(
      fc.property(word, word, fc.nat(6), (a, b, at) => {
        expect(editDistance(a, b)).toBe(editDistance(b, a))
        expect(editDistance(a, b) === 0).toBe(a === b)
        expect(editDistance(a, `${a.slice(0, at)}z${a.slice(at)}`)).toBe(1)
        expect(editDistance(a, b)).toBeLessThanOrEqual(Math.max(a.length, b.length))
      }),
    )
  })
})

describe('nearestName', () => {
  it('prefers the nearest, then the first', () => {
    expect(nearestName('sead', ['seed', 'sed', 'head'])).toBe('seed')
    expect(nearestName('x', ['a', 'b'])).toBe('a')
  })
  it('does not guess', () => expect(nearestName('target-bpw', ['bits', 'group', 'method'])).toBeUndefined())
})
