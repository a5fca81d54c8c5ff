import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Bits } from '../../src/contracts.ts'
import { codesPerUnit, packLines, unpackLines, wordsFor } from '../../src/format/bits.ts'

/** The definition: value i of a line stands at bits [b·i, b·i + b) of the line's words. */
const packedByDefinition = (line: Uint8Array, bits: number): number[] => {
  let stream = 0n
  line.forEach((code, i) => {
    stream |= BigInt(code) << BigInt(bits * i)
  })
  return Array.from({ length: Math.ceil((line.length * bits) / 32) }, (_, i) =>
    Number((stream >> BigInt(32 * i)) & 0xffffffffn),
  )
}

const blocks = fc
  .record({
    bits: fc.constantFrom<Bits>(1, 2, 3, 4, 5, 6, 7, 8),
    lines: fc.integer({ min: 1, max: 37 }),
    length: fc.integer({ min: 1, max: 11 }),
    whole: fc.boolean(),
  })
  .chain(({ bits, lines, length, whole }) => {
    const count = whole ? length * codesPerUnit(bits) : 7 * length + 1
    const codes = fc.uint8Array({ minLength: lines * count, maxLength: lines * count, max: 2 ** bits - 1 })
    return fc.record({ bits: fc.constant(bits), lines: fc.constant(lines), count: fc.constant(count), codes })
  })

const words = (hex: string): number[] => hex.split(' ').map(word => Number.parseInt(word, 16))

describe('packLines', () => {
  it.each<[string, Bits, number[], string]>([
    ['4-bit', 4, [8, 3, 15, 0, 7, 9, 12, 1], '1C970F38'],
    ['2-bit', 2, [0, 1, 2, 3, 3, 2, 1, 0, 1, 1, 2, 2, 0, 0, 3, 3], 'F0A51BE4'],
    ['8-bit', 8, [128, 0, 255, 1], '01FF0080'],
    ['3-bit', 3, Array.from({ length: 32 }, (_, i) => i % 8), '88FAC688 C688FAC6 FAC688FA'],
  ])('gives the known words of %s codes', (_, bits, codes, hex) => {
    expect([...packLines(Uint8Array.from(codes), 1, codes.length, bits, false)]).toEqual(words(hex))
    expect([...packLines(Uint8Array.from(codes), 1, codes.length, bits, true)]).toEqual(words(hex))
  })

  it('packs every line by the definition, and transposed the same words', () => {
    fc.assert(
      fc.property(blocks, ({ bits, lines, count, codes }) => {
        const perLine = wordsFor(count, bits)
        const expected = Array.from({ length: lines }, (_, line) =>
          packedByDefinition(codes.subarray(line * count, (line + 1) * count), bits),
        )
        expect([...packLines(codes, lines, count, bits, false)]).toEqual(expected.flat())
        const transposed = Array.from({ length: perLine }, (_, word) => expected.map(line => line[word]))
        expect([...packLines(codes, lines, count, bits, true)]).toEqual(transposed.flat())
      }),
      { numRuns: 150 },
    )
  })

  it('is undone by unpackLines', () => {
    fc.assert(
      fc.property(blocks, fc.boolean(), ({ bits, lines, count, codes }, transposed) => {
        const packed = packLines(codes, lines, count, bits, transposed)
        expect(unpackLines(packed, lines, count, bits, transposed)).toEqual(codes)
      }),
      { numRuns: 150 },
    )
  })

  it('reads codes at an odd address', () => {
    const bytes = Uint8Array.from([99, 128, 0, 255, 1])
    expect([...packLines(bytes.subarray(1), 1, 4, 8, false)]).toEqual([0x01ff0080])
  })

  it('refuses a code of too many bits instead of spoiling its neighbour', () => {
    expect(() => packLines(Uint8Array.from([0, 16, 0, 0, 0, 0, 0, 0]), 1, 8, 4, false)).toThrow(
      /does not fit into 4 bits/,
    )
  })
})
