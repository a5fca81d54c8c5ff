/** AWQ's order of 8 outputs in a word: nibble i, low first, holds output order[i] (AutoAWQ, awq/utils/packing_utils.py). */
const order = [0, 2, 4, 6, 1, 3, 5, 7] as const

/** Lines of codes of a multiple of 8 outputs: each octet in the nibbles' order. */
export const interleaved = (codes: Uint8Array): Uint8Array => {
  const result = new Uint8Array(codes.length)
  for (let i = 0; i < codes.length; i++) result[i] = codes[i - (i % 8) + order[i % 8]]
  return result
}

/** The inverse of `interleaved`. */
export const deinterleaved = (codes: Uint8Array): Uint8Array => {
  const result = new Uint8Array(codes.length)
  for (let i = 0; i < codes.length; i++) result[i - (i % 8) + order[i % 8]] = codes[i]
  return result
}
