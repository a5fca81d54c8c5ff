/** TQ1_0: five weights of −1, 0, 1 in a byte (ggml/src/ggml-quants.c, quantize_row_tq1_0_ref). Digits come most significant first. */

/** The byte of weight i, and which of its digits it is: 32 bytes with five runs of 32, 16 with five of 16, 4 with four of 4. */
const placeOf = (i: number): readonly [byte: number, digit: number] => {
  if (i < 160) return [i % 32, Math.floor(i / 32)]
  if (i < 240) return [32 + ((i - 160) % 16), Math.floor((i - 160) / 16)]
  return [48 + ((i - 240) % 4), Math.floor((i - 240) / 4)]
}

const places = Uint8Array.from({ length: 256 }, (_, i) => placeOf(i)[0])
const digits = Uint8Array.from({ length: 256 }, (_, i) => placeOf(i)[1])
const powers = [1, 3, 9, 27, 81] as const

/** [block]: 256 codes of 0, 1, 2 from 52 bytes at `at`. A byte b stands for b · 3⁵ / 2⁸: multiplied by 3, a digit overflows it. */
export const readTrits = (bytes: Uint8Array, at: number, codes: Uint8Array, first: number): void => {
  for (let i = 0; i < 256; i++) {
    const rest = (bytes[at + places[i]] * powers[digits[i]]) & 255
    codes[first + i] = (rest * 3) >> 8
  }
}

export const writeTrits = (codes: Uint8Array, first: number, bytes: Uint8Array, at: number): void => {
  const values = new Uint8Array(52)
  for (let i = 0; i < 256; i++) values[places[i]] += codes[first + i] * powers[4 - digits[i]]
  for (let j = 0; j < 52; j++) bytes[at + j] = Math.floor((values[j] * 256 + 242) / 243)
}
