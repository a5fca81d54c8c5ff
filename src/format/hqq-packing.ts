/** How HQQ packs codes (hqq/core/bitpack.py). */
import type { Bits } from '../contracts.ts'
import type { Shifts } from './row-chunks.ts'

export interface Packing {
  readonly name: string
  /** Of a code in a word. */
  readonly bits: Bits
  readonly word: 'U8' | 'I32'
  readonly shifts: Shifts
  /** Values of `nbits` that are stored so. 1.58: three values in 2 bits, which the library reads back as 1. */
  readonly holds: readonly number[]
}

/** Shifts of a word that is filled from its high end. */
const fromHigh = (count: number, bits: number): Shifts =>
  Array.from({ length: count }, (_, chunk) => (count - 1 - chunk) * bits)

const packings: readonly Packing[] = [
  { name: '1bit_u8', bits: 1, word: 'U8', shifts: fromHigh(8, 1), holds: [1] },
  { name: '2bit_u8', bits: 2, word: 'U8', shifts: fromHigh(4, 2), holds: [2, 1, Math.fround(1.58)] },
  { name: '3bit_32', bits: 3, word: 'I32', shifts: fromHigh(10, 3), holds: [3] },
  { name: '4bit_u8', bits: 4, word: 'U8', shifts: fromHigh(2, 4), holds: [4] },
  { name: '8bit_u8', bits: 8, word: 'U8', shifts: [0], holds: [8, 7, 6, 5] },
]

/** Widths that HQQ packs; it keeps 5 and 6 bits in whole bytes. */
export const hqqBits: readonly Bits[] = packings.map(({ bits }) => bits)

/** The packing of codes that we write, or undefined. */
export const packingOf = (bits: Bits): Packing | undefined => packings.find(packing => packing.bits === bits)

export const packingNamed = (name: string): Packing | undefined => packings.find(packing => packing.name === name)

/** Whether rows fill the words: only 3-bit words have rows that nothing stands for, which the library cuts off. */
export const fillsWords = (rows: number, { bits, shifts }: Packing): boolean => bits === 3 || rows % shifts.length === 0
