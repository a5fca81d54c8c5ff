/** Codes of 4 bits, two a byte. */

/** The even one in the low nibble. The number of codes must be even. */
export const packLowFirst = (codes: Uint8Array): Uint8Array =>
  Uint8Array.from({ length: codes.length / 2 }, (_, i) => codes[2 * i] | (codes[2 * i + 1] << 4))

export const unpackLowFirst = (bytes: Uint8Array): Uint8Array =>
  Uint8Array.from({ length: 2 * bytes.length }, (_, i) => (i % 2 === 0 ? bytes[i >> 1] & 15 : bytes[i >> 1] >> 4))

/** The even one in the high nibble; an odd last one stands alone. */
export const packHighFirst = (codes: Uint8Array): Uint8Array =>
  Uint8Array.from({ length: Math.ceil(codes.length / 2) }, (_, i) => (codes[2 * i] << 4) | (codes[2 * i + 1] ?? 0))

export const unpackHighFirst = (bytes: Uint8Array, count: number): Uint8Array =>
  Uint8Array.from({ length: count }, (_, i) => (i % 2 === 0 ? bytes[i >> 1] >> 4 : bytes[i >> 1] & 15))
