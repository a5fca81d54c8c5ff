/** Where the bits of a block's codes lie. A code is the sum of its planes: each holds some bits of every weight. */

export interface Plane {
  /** Bits of the code, from `lowest` up. */
  readonly bits: number
  readonly lowest: number
  /** [weights of a block]: the byte, from the block's start, and the bit in it. */
  readonly place: Uint16Array
  readonly shift: Uint8Array
}

interface PlaneRule {
  readonly at: number
  readonly bits: number
  readonly lowest?: number
  /** The byte behind `at`, and the bit in it, of weight i. */
  readonly byte: (i: number) => number
  readonly bit: (i: number) => number
}

export const plane = (weights: number, { at, bits, lowest = 0, byte, bit }: PlaneRule): Plane => ({
  bits,
  lowest,
  place: Uint16Array.from({ length: weights }, (_, i) => at + byte(i)),
  shift: Uint8Array.from({ length: weights }, (_, i) => bit(i)),
})

/** Halves of `half` weights share bytes: the first in the low nibbles, the second in the high ones. */
export const nibbleHalves = (weights: number, at: number, half: number): Plane =>
  plane(weights, {
    ...{ at, bits: 4 },
    byte: i => Math.floor(i / (2 * half)) * half + (i % half),
    bit: i => 4 * (Math.floor(i / half) % 2),
  })

/** Quarters of 32 of each 128 weights share bytes, two bits each. */
export const pairQuarters = (at: number, lowest = 0): Plane =>
  plane(256, { at, bits: 2, lowest, byte: i => 32 * (i >> 7) + (i & 31), bit: i => 2 * ((i >> 5) & 3) })

/** One bit of each of the eight runs of 32 in each of 32 bytes. */
export const bitRuns = (at: number, lowest: number): Plane =>
  plane(256, { at, bits: 1, lowest, byte: i => i & 31, bit: i => i >> 5 })

/** [planes][weights]: where the kernel that expands codes finds them (engine/kernel/assembly/ggml/expand.ts). */
export const planeTable = (planes: readonly Plane[]): Uint32Array =>
  Uint32Array.from(
    planes.flatMap(({ bits, lowest, place, shift }) =>
      Array.from(place, (at, i) => at + 2 ** 16 * shift[i] + 2 ** 20 * lowest + 2 ** 24 * ((1 << bits) - 1)),
    ),
  )

/** @param codes [blocks · weights], to be filled */
export const readPlanes = (
  planes: readonly Plane[],
  bytes: Uint8Array,
  blockBytes: number,
  codes: Uint8Array,
): void => {
  for (const { bits, lowest, place, shift } of planes) {
    const mask = (1 << bits) - 1
    for (let at = 0, first = 0; first < codes.length; at += blockBytes, first += place.length)
      for (let i = 0; i < place.length; i++) codes[first + i] |= ((bytes[at + place[i]] >> shift[i]) & mask) << lowest
  }
}

/** @param bytes of blocks, zeros where codes go */
export const writePlanes = (
  planes: readonly Plane[],
  codes: Uint8Array,
  blockBytes: number,
  bytes: Uint8Array,
): void => {
  for (const { bits, lowest, place, shift } of planes) {
    const mask = (1 << bits) - 1
    for (let at = 0, first = 0; first < codes.length; at += blockBytes, first += place.length)
      for (let i = 0; i < place.length; i++) bytes[at + place[i]] |= ((codes[first + i] >> lowest) & mask) << shift[i]
  }
}
