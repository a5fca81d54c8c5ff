/** Codes of a block, u8 each, into its bits (src/gguf/block-layouts.ts). */

/** Runs of `half` (a multiple of 16) codes in the low nibbles, the next as many in the high ones. */
export function packNibbles(codes: usize, n: usize, half: usize, at: usize): void {
  for (let first: usize = 0; first < n; first += 2 * half, at += half)
    for (let i: usize = 0; i < half; i += 16) {
      const low = v128.and(v128.load(codes + first + i), i8x16.splat(15))
      v128.store(at + i, v128.or(low, i8x16.shl(v128.load(codes + first + half + i), 4)))
    }
}

/** Two bits from `lowest` up of each of four runs of 32 in 32 bytes. */
export function packPairs(codes: usize, lowest: i32, at: usize): void {
  const pair = i8x16.splat(3)
  for (let first: usize = 0; first < 256; first += 128, at += 32)
    for (let i: usize = 0; i < 32; i += 16) {
      const from = codes + first + i
      const a = v128.and(i8x16.shr_u(v128.load(from), lowest), pair)
      const b = v128.and(i8x16.shr_u(v128.load(from, 32), lowest), pair)
      const c = v128.and(i8x16.shr_u(v128.load(from, 64), lowest), pair)
      const d = i8x16.shr_u(v128.load(from, 96), lowest)
      const low = v128.or(a, i8x16.shl(b, 2))
      v128.store(at + i, v128.or(low, v128.or(i8x16.shl(c, 4), i8x16.shl(d, 6))))
    }
}

/** The bit at `lowest` of each of eight runs of 32 in 32 bytes. */
export function packRunBits(codes: usize, lowest: i32, at: usize): void {
  for (let i: usize = 0; i < 32; i += 16) {
    let bits = i8x16.splat(0)
    for (let run = 0; run < 8; run++) {
      const bit = v128.and(i8x16.shr_u(v128.load(codes + 32 * run + i), lowest), i8x16.splat(1))
      bits = v128.or(bits, i8x16.shl(bit, run))
    }
    v128.store(at + i, bits)
  }
}

/** Bit 4 of 32 codes in a u32. */
export function packFifthBits(codes: usize, at: usize): void {
  store<u16>(at, i8x16.bitmask(i8x16.shl(v128.load(codes), 3)))
  store<u16>(at, i8x16.bitmask(i8x16.shl(v128.load(codes, 16), 3)), 2)
}

/** Q3_K: 16 scales of 6 bits. */
export function packSixBits(scales: usize, at: usize): void {
  memory.fill(at, 0, 12)
  for (let j: usize = 0; j < 16; j++) {
    const code = <u32>load<u8>(scales + j)
    const low = at + (j & 7)
    const high = at + 8 + (j & 3)
    store<u8>(low, <u32>load<u8>(low) | ((code & 15) << (4 * (<u32>j >> 3))))
    store<u8>(high, <u32>load<u8>(high) | ((code >> 4) << (2 * (<u32>j >> 2))))
  }
}

/** Q4_K, Q5_K: 8 scales and 8 minima of 6 bits. */
export function packSixBitPairs(scales: usize, minima: usize, at: usize): void {
  for (let j: usize = 0; j < 4; j++) {
    const scale = <u32>load<u8>(scales + 4 + j)
    const minimum = <u32>load<u8>(minima + 4 + j)
    store<u8>(at + j, <u32>load<u8>(scales + j) | ((scale >> 4) << 6))
    store<u8>(at + 4 + j, <u32>load<u8>(minima + j) | ((minimum >> 4) << 6))
    store<u8>(at + 8 + j, (scale & 15) | ((minimum & 15) << 4))
  }
}
