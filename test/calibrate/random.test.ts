import { describe, expect, it } from 'vitest'
import { below, drawIndices, randomFrom } from '../../src/calibrate/random.ts'

/** SplitMix32 on big integers: no sign, no truncation to get wrong. */
function* oracle(seed: bigint): Generator<number> {
  const mask = 0xffff_ffffn
  for (let state = seed; ; ) {
    state = (state + 0x9e3779b9n) & mask
    let z = ((state ^ (state >> 16n)) * 0x21f0aaadn) & mask
    z = ((z ^ (z >> 15n)) * 0x735a2d97n) & mask
    yield Number(z ^ (z >> 15n))
  }
}

describe('randomFrom', () => {
  it.each([0, 1, 42, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff])('seed %i agrees with big integers', seed => {
    const random = randomFrom(seed)
    const expected = oracle(BigInt(seed))
    for (let i = 0; i < 1000; i++) expect(random()).toBe(expected.next().value)
  })

  it('starts as recorded', () => {
    const random = randomFrom(0)
    expect([random(), random(), random(), random()]).toEqual([1684164658, 3653269916, 2939563536, 2141751570])
  })

  it.each([-1, 0.5, 2 ** 32, Number.NaN])('refuses the seed %d', seed => {
    expect(() => randomFrom(seed)).toThrow(expect.objectContaining({ code: 'bad-option' }))
  })
})

describe('below', () => {
  it('draws again where the last range is incomplete', () => {
    const values = [0xffff_ffff, 0xc000_0000, 5]
    expect(below(() => values.shift()!, 0x6000_0000)).toBe(5)
  })

  it('is even', () => {
    const random = randomFrom(7)
    const counts = new Float64Array(6)
    for (let i = 0; i < 60_000; i++) counts[below(random, 6)]++
    for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(450) // 5 standard deviations
  })
})

describe('drawIndices', () => {
  it('gives each index once, and the start of a longer draw', () => {
    const all = [...drawIndices(randomFrom(3), 100, 100)]
    expect([...all].sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, i) => i))
    expect([...drawIndices(randomFrom(3), 100, 30)]).toEqual(all.slice(0, 30))
  })

  it('puts every index everywhere', () => {
    const seen = new Set<string>()
    for (let seed = 0; seed < 200; seed++)
      for (const [at, index] of [...drawIndices(randomFrom(seed), 4, 4)].entries()) seen.add(`${index}@${at}`)
    expect(seen.size).toBe(16)
  })
})
