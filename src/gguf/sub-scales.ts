/** Scales and minima of sub-blocks under those of a super-block (ggml/src/ggml-common.h, ggml-quants.c). */

export interface SubScales {
  /** Sub-blocks of a super-block. */
  readonly count: number
  /** Least and largest scale, and minimum where sub-blocks have them. */
  readonly range: readonly [number, number]
  /** Sub-blocks have minima. */
  readonly minima: boolean
  /** One super-block at `at`; `scales` and `minima` are written from `first` on. */
  read(bytes: Uint8Array, at: number, scales: Codes, minima: Codes, first: number): void
  /** Into zeros. */
  write(bytes: Uint8Array, at: number, scales: Codes, minima: Codes, first: number): void
}

export type Codes = Uint8Array | Int8Array

/** Q2_K: 4 bits each, the minimum in the high nibble. */
export const nibblePairs = (offset: number): SubScales => ({
  ...({ count: 16, range: [0, 15], minima: true } as const),
  read(bytes, at, scales, minima, first) {
    for (let j = 0; j < 16; j++) {
      scales[first + j] = bytes[at + offset + j] & 15
      minima[first + j] = bytes[at + offset + j] >> 4
    }
  },
  write(bytes, at, scales, minima, first) {
    for (let j = 0; j < 16; j++) bytes[at + offset + j] = scales[first + j] | (minima[first + j] << 4)
  },
})

/** Q3_K: 6 bits with 32 added; low nibbles of 8 and 8 scales share bytes, the upper two bits lie in 4 bytes behind them. */
export const sixBitsSigned = (offset: number): SubScales => ({
  ...({ count: 16, range: [-32, 31], minima: false } as const),
  read(bytes, at, scales, _, first) {
    for (let j = 0; j < 16; j++) {
      const low = (bytes[at + offset + (j & 7)] >> (4 * (j >> 3))) & 15
      const high = (bytes[at + offset + 8 + (j & 3)] >> (2 * (j >> 2))) & 3
      scales[first + j] = (low | (high << 4)) - 32
    }
  },
  write(bytes, at, scales, _, first) {
    for (let j = 0; j < 16; j++) {
      const code = scales[first + j] + 32
      bytes[at + offset + (j & 7)] |= (code & 15) << (4 * (j >> 3))
      bytes[at + offset + 8 + (j & 3)] |= (code >> 4) << (2 * (j >> 2))
    }
  },
})

/** Q4_K, Q5_K: 8 scales and 8 minima of 6 bits in 12 bytes. The upper two bits of the last four lie in the first eight bytes. */
export const sixBitPairs = (offset: number): SubScales => ({
  ...({ count: 8, range: [0, 63], minima: true } as const),
  read(bytes, at, scales, minima, first) {
    const packed = at + offset
    for (let j = 0; j < 4; j++) {
      scales[first + j] = bytes[packed + j] & 63
      minima[first + j] = bytes[packed + 4 + j] & 63
      scales[first + 4 + j] = (bytes[packed + 8 + j] & 15) | ((bytes[packed + j] >> 6) << 4)
      minima[first + 4 + j] = (bytes[packed + 8 + j] >> 4) | ((bytes[packed + 4 + j] >> 6) << 4)
    }
  },
  write(bytes, at, scales, minima, first) {
    const packed = at + offset
    for (let j = 0; j < 4; j++) {
      const [scale, minimum] = [scales[first + 4 + j], minima[first + 4 + j]]
      bytes[packed + j] = scales[first + j] | ((scale >> 4) << 6)
      bytes[packed + 4 + j] = minima[first + j] | ((minimum >> 4) << 6)
      bytes[packed + 8 + j] = (scale & 15) | ((minimum & 15) << 4)
    }
  },
})

/** Q6_K: bytes in two's complement. */
export const signedBytes = (offset: number): SubScales => ({
  ...({ count: 16, range: [-128, 127], minima: false } as const),
  read(bytes, at, scales, _, first) {
    for (let j = 0; j < 16; j++) scales[first + j] = (bytes[at + offset + j] << 24) >> 24
  },
  write(bytes, at, scales, _, first) {
    for (let j = 0; j < 16; j++) bytes[at + offset + j] = scales[first + j]
  },
})

/** IQ4_XS: 6 bits with 32 added; low nibbles in pairs at `low`, the upper two bits of all eight in the u16 at `high`. */
export const splitSixBits = (high: number, low: number): SubScales => ({
  ...({ count: 8, range: [-32, 31], minima: false } as const),
  read(bytes, at, scales, _, first) {
    for (let j = 0; j < 8; j++) {
      const nibble = (bytes[at + low + (j >> 1)] >> (4 * (j & 1))) & 15
      const upper = (bytes[at + high + (j >> 2)] >> (2 * (j & 3))) & 3
      scales[first + j] = (nibble | (upper << 4)) - 32
    }
  },
  write(bytes, at, scales, _, first) {
    for (let j = 0; j < 8; j++) {
      const code = scales[first + j] + 32
      bytes[at + low + (j >> 1)] |= (code & 15) << (4 * (j & 1))
      bytes[at + high + (j >> 2)] |= (code >> 4) << (2 * (j & 3))
    }
  },
})
