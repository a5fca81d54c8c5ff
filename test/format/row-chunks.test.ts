import fc from 'fast-check'
import { expect, it } from 'vitest'
import { packingNamed } from '../../src/format/hqq-packing.ts'
import { packShifts } from '../../src/format/quanto-packing.ts'
import { chunkRows, packRowChunks, type Shifts, unpackRowChunks } from '../../src/format/row-chunks.ts'

/** A column of codes. */
const column = (codes: readonly number[], shifts: Shifts, words = Uint8Array) => [
  ...packRowChunks(Uint8Array.from(codes), shifts, new words(chunkRows(codes.length, shifts))),
]

// goldens: hqq/core/bitpack.py and optimum/quanto/tensor/packed.py, run
it.each<[string, number[], number[]]>([
  ['4bit_u8', [1, 3, 5, 7], [0x15, 0x37]],
  ['2bit_u8', [0, 1, 2, 3, 0, 1, 2, 3], [34, 119]],
  ['1bit_u8', [1, 0, 0, 1, 0, 1, 1, 0], [0b10010110]],
  ['8bit_u8', [200, 3], [200, 3]],
])('HQQ %s', (name, codes, words) => {
  expect(column(codes, packingNamed(name)!.shifts)).toEqual(words)
})

it('HQQ 3bit_32: ten codes a word, the first in the high bits, rows filled up with zeros', () => {
  const { shifts } = packingNamed('3bit_32')!
  const words = packRowChunks(
    Uint8Array.from({ length: 10 }, (_, i) => i % 8),
    shifts,
    new Uint32Array(1),
  )
  expect([...words]).toEqual([0x014e5dc1])
  expect([...packRowChunks(Uint8Array.of(7), shifts, new Uint32Array(1))]).toEqual([7 << 27])
})

it.each<[2 | 4, number[], number[]]>([
  [4, [1, 2, 3, 4, 5, 6], [65, 82, 99]],
  [2, [0, 1, 2, 3, 1, 1, 2, 0], [152, 29]],
  [4, [1, 2, 3], [0x31, 2]],
  [2, [3], [3]],
])('quanto %i bits: the first chunk in the low bits', (bits, codes, words) => {
  expect(column(codes, packShifts(bits))).toEqual(words)
})

it('unpacks what it packed, of any number of rows', () => {
  const packings = [
    ...(['1bit_u8', '2bit_u8', '4bit_u8', '8bit_u8'] as const).map(name => packingNamed(name)!),
    { bits: 2, shifts: packShifts(2) },
    { bits: 4, shifts: packShifts(4) },
  ]
  fc.assert(
    fc.property(
      fc.constantFrom(...packings),
      fc.integer({ min: 1, max: 40 }),
      fc.integer({ min: 1, max: 9 }),
      fc.infiniteStream(fc.nat(255)),
      ({ bits, shifts }, rows, columns, values) => {
        const codes = Uint8Array.from({ length: rows * columns }, () => values.next().value & (2 ** bits - 1))
        const words = packRowChunks(codes, shifts, new Uint8Array(chunkRows(rows, shifts) * columns))
        expect(unpackRowChunks(words, shifts, bits, codes.length)).toEqual(codes)
      },
    ),
  )
})
