/**
 * Codes of 1 to 8 bits in 32-bit words: one continuous bit stream along a line of codes, low bits first. Value i of a line stands
 * at bits [b·i, b·i + b) of it; for 1, 2, 4 and 8 bits no value straddles two words, for 3 bits 32 values take three words. What is left of
 * a line's last word is zero.
 * Four codes (a "quad", one 32-bit load) are moved at a time.
 */
import type { Bits } from '../contracts.ts'

/** The shortest run of codes that fills whole words: 16 codes of 2 bits, 32 of 3 bits (three words), 16 of 6 bits, 4 of 8 bits. */
export const codesPerUnit = (bits: Bits): number => 32 / (bits & -bits)

/** 32-bit words that a line of `count` codes takes. */
export const wordsFor = (count: number, bits: Bits): number => Math.ceil((count * bits) / 32)

/** Outputs packed side by side: 16 words of a row of the transposed layout are one cache line. */
const tileLines = 16
/** Quads of one line packed before the next line: few enough that a power-of-two row stride does not evict them. */
const tileQuads = 8

/** Where the words of a lines × count block of codes stand. */
interface WordLayout {
  /** Words between two neighbours of one line. */
  readonly alongLine: number
  /** Words between the same place of two neighbouring lines. */
  readonly betweenLines: number
}

const layoutOf = (lines: number, words: number, transposed: boolean): WordLayout =>
  transposed ? { alongLine: lines, betweenLines: 1 } : { alongLine: 1, betweenLines: words }

const quadsOf = (codes: Uint8Array): Uint32Array => {
  const aligned = codes.byteOffset % 4 === 0 ? codes : codes.slice()
  return new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4)
}

/** Lines [lines, from] → [lines, to], cut or filled with zeros. */
const resized = (codes: Uint8Array, lines: number, from: number, to: number): Uint8Array => {
  if (from === to) return codes
  const result = new Uint8Array(lines * to)
  const kept = Math.min(from, to)
  for (let line = 0; line < lines; line++) result.set(codes.subarray(line * from, line * from + kept), line * to)
  return result
}

/** Of a quad whose two pairs stand in 16 bits each: the first codes of both, the second ones; and one pair. */
const masksOf = (bits: Bits) => {
  const code = (1 << bits) - 1
  return { even: (code * 0x00010001) | 0, odd: ((code << bits) * 0x00010001) | 0, pair: (1 << (2 * bits)) - 1 }
}

/** A line's length in whole quads. */
const wholeQuads = (count: number): number => Math.ceil(count / 4) * 4

/**
 * Packs each line of codes [lines, count] into words.
 * @param transposed false: words [lines, ⌈count·bits/32⌉]; true: words [⌈count·bits/32⌉, lines], as GPTQ stores weights
 * @throws Error when a code does not fit into `bits` (a bug of the caller)
 */
export const packLines = (
  codes: Uint8Array,
  lines: number,
  count: number,
  bits: Bits,
  transposed: boolean,
): Uint32Array => {
  if (codes.length !== lines * count) throw new Error(`${codes.length} codes are not ${lines} lines of ${count}`)
  const words = new Uint32Array(lines * wordsFor(count, bits))
  const { alongLine, betweenLines } = layoutOf(lines, wordsFor(count, bits), transposed)
  const quads = quadsOf(resized(codes, lines, count, wholeQuads(count)))
  const quadsPerLine = wholeQuads(count) / 4
  const quadBits = 4 * bits
  const { even, odd, pair } = masksOf(bits)
  let seen = 0
  for (let line0 = 0; line0 < lines; line0 += tileLines) {
    const line1 = Math.min(lines, line0 + tileLines)
    for (let quad0 = 0; quad0 < quadsPerLine; quad0 += tileQuads) {
      const quad1 = Math.min(quadsPerLine, quad0 + tileQuads)
      for (let line = line0; line < line1; line++) {
        for (let quad = quad0; quad < quad1; quad++) {
          const four = quads[line * quadsPerLine + quad]
          seen |= four
          const pairs = (four & even) | ((four >>> (8 - bits)) & odd)
          const packed = (pairs & pair) | ((pairs >>> 16) << (2 * bits))
          const bit = quad * quadBits
          const at = line * betweenLines + (bit >>> 5) * alongLine
          const shift = bit & 31
          words[at] |= packed << shift
          if (shift + quadBits > 32) words[at + alongLine] |= packed >>> (32 - shift)
        }
      }
    }
  }
  if ((seen & ~(((1 << bits) - 1) * 0x01010101)) !== 0) throw new Error(`a code does not fit into ${bits} bits`)
  return words
}

/** The inverse of packLines: codes [lines, count]. `words` must hold lines · ⌈count · bits / 32⌉ of them. */
export const unpackLines = (
  words: Uint32Array,
  lines: number,
  count: number,
  bits: Bits,
  transposed: boolean,
): Uint8Array => {
  const codes = new Uint8Array(lines * wholeQuads(count))
  const { alongLine, betweenLines } = layoutOf(lines, wordsFor(count, bits), transposed)
  const quads = new Uint32Array(codes.buffer)
  const quadsPerLine = wholeQuads(count) / 4
  const quadBits = 4 * bits
  const { even, odd, pair } = masksOf(bits)
  for (let line0 = 0; line0 < lines; line0 += tileLines) {
    const line1 = Math.min(lines, line0 + tileLines)
    for (let quad0 = 0; quad0 < quadsPerLine; quad0 += tileQuads) {
      const quad1 = Math.min(quadsPerLine, quad0 + tileQuads)
      for (let line = line0; line < line1; line++) {
        for (let quad = quad0; quad < quad1; quad++) {
          const bit = quad * quadBits
          const at = line * betweenLines + (bit >>> 5) * alongLine
          const shift = bit & 31
          let packed = words[at] >>> shift
          if (shift + quadBits > 32) packed |= words[at + alongLine] << (32 - shift)
          const pairs = (packed & pair) | (((packed >>> (2 * bits)) & pair) << 16)
          quads[line * quadsPerLine + quad] = (pairs & even) | ((pairs & odd) << (8 - bits))
        }
      }
    }
  }
  return resized(codes, lines, wholeQuads(count), count)
}
