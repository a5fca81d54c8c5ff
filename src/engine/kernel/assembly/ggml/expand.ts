/**
 * The codes of blocks, from the bits where they lie (src/gguf/code-planes.ts). `table`: u32 [planes][weights], of each weight and plane the
 * byte from the block's start (bits 0–15), the bit in it (16–19), the lowest bit of the code (20–23) and the mask (24–31). `offset` is added to codes, as bytes wrap.
 * `codes` takes `blocks` · `weights` bytes.
 */
export function expandCodes(
  source: usize,
  blocks: usize,
  blockBytes: usize,
  weights: usize,
  table: usize,
  planes: i32,
  offset: i32,
  codes: usize,
): void {
  for (let block: usize = 0; block < blocks; block++) {
    for (let i: usize = 0; i < weights; i++) {
      let code = part(source, load<u32>(table + (i << 2)))
      if (planes === 2) code |= part(source, load<u32>(table + ((weights + i) << 2)))
      store<u8>(codes + i, code + offset)
    }
    source += blockBytes
    codes += weights
  }
}

function part(block: usize, place: u32): u32 {
  const bits = <u32>load<u8>(block + (place & 0xffff)) >> ((place >> 16) & 15)
  return (bits & (place >> 24)) << ((place >> 20) & 15)
}
