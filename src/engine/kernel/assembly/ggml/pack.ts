/** Codes of a block, u8 each, into its bits (src/gguf/block-layouts.ts). */

/** Runs of `half` codes in the low nibbles, the next as many in the high ones. */
export function packNibbles(codes: usize, n: usize, half: usize, at: usize): void {
  for (let first: usize = 0; first < n; first += 2 * half, at += half)
    for (let i: usize = 0; i < half; i++)
      store<u8>(at + i, (load<u8>(codes + first + i) & 15) | (load<u8>(codes + first + half + i) << 4))
}

/** Two bits from `lowest` up of each of four runs of 32 in 32 bytes. */
export function packPairs(codes: usize, lowest: u32, at: usize): void {
  for (let first: usize = 0; first < 256; first += 128, at += 32)
    for (let i: usize = 0; i < 32; i++) {
      let byte: u32 = 0
      for (let run: usize = 0; run < 4; run++)
        byte |= ((<u32>load<u8>(codes + first + 32 * run + i) >> lowest) & 3) << (2 * <u32>run)
      store<u8>(at + i, byte)
    }
}

/** The bit at `lowest` of each of eight runs of 32 in 32 bytes. */
export function packRunBits(codes: usize, lowest: u32, at: usize): void {
  for (let i: usize = 0; i < 32; i++) {
    let byte: u32 = 0
    for (let run: usize = 0; run < 8; run++) byte |= ((<u32>load<u8>(codes + 32 * run + i) >> lowest) & 1) << (<u32>run)
    store<u8>(at + i, byte)
  }
}

/** Bit 4 of 32 codes in a u32. */
export function packFifthBits(codes: usize, at: usize): void {
  let word: u32 = 0
  for (let i: usize = 0; i < 32; i++) word |= ((<u32>load<u8>(codes + i) >> 4) & 1) << (<u32>i)
  store<u32>(at, word)
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
