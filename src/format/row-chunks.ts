/**
 * Codes packed across rows: a matrix is cut into chunks of equally many rows, and a word holds one code of each chunk, at the same place
 * of each. HQQ's first chunk stands in the high bits, quanto's in the low ones.
 */

/** Where a word keeps the code of each chunk: how far up, in bits. */
export type Shifts = readonly number[]

/** Rows of words that `rows` rows of codes take. */
export const chunkRows = (rows: number, shifts: Shifts): number => Math.ceil(rows / shifts.length)

/**
 * Codes [rows, columns] into words [⌈rows / chunks⌉, columns], zero before; rows that the last chunk lacks stay 0.
 * @returns words
 */
export const packRowChunks = <T extends Uint8Array | Uint32Array>(codes: Uint8Array, shifts: Shifts, words: T): T => {
  for (const [chunk, shift] of shifts.entries()) {
    const part = codes.subarray(chunk * words.length, (chunk + 1) * words.length)
    for (let i = 0; i < part.length; i++) words[i] |= part[i] << shift
  }
  return words
}

/** The inverse of packRowChunks: the first `count` codes of `bits` bits. */
export const unpackRowChunks = (
  words: Uint8Array | Uint32Array,
  shifts: Shifts,
  bits: number,
  count: number,
): Uint8Array => {
  const codes = new Uint8Array(count)
  const mask = (1 << bits) - 1
  for (const [chunk, shift] of shifts.entries()) {
    const part = codes.subarray(chunk * words.length, (chunk + 1) * words.length)
    for (let i = 0; i < part.length; i++) part[i] = (words[i] >>> shift) & mask
  }
  return codes
}
