import { ROWS } from './layout'

// One step of a byte transpose: the first or last halves of two vectors, interleaved.
function low(a: v128, b: v128): v128 {
  return i8x16.shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
}

function high(a: v128, b: v128): v128 {
  return i8x16.shuffle(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
}

/**
 * Eight columns of 16 rows → 16 rows of eight columns: three rounds of interleaving. `codes` + load(at) is a column.
 */
function transpose8(codes: usize, at: usize, dst: usize, cols: usize): void {
  const a = v128.load(codes + (load<u32>(at) >> 2))
  const b = v128.load(codes + (load<u32>(at, 4) >> 2))
  const c = v128.load(codes + (load<u32>(at, 8) >> 2))
  const d = v128.load(codes + (load<u32>(at, 12) >> 2))
  const e = v128.load(codes + (load<u32>(at, 16) >> 2))
  const f = v128.load(codes + (load<u32>(at, 20) >> 2))
  const g = v128.load(codes + (load<u32>(at, 24) >> 2))
  const h = v128.load(codes + (load<u32>(at, 28) >> 2))
  storeRows(low(a, e), low(c, g), low(b, f), low(d, h), dst, cols)
  storeRows(high(a, e), high(c, g), high(b, f), high(d, h), dst + 8 * cols, cols)
}

/** Columns 0|4, 2|6, 1|5, 3|7 interleaved, of eight rows. */
function storeRows(a: v128, c: v128, b: v128, d: v128, dst: usize, cols: usize): void {
  const even0 = low(a, c)
  const odd0 = low(b, d)
  storeTwoRows(low(even0, odd0), dst, cols)
  storeTwoRows(high(even0, odd0), dst + 2 * cols, cols)
  const even1 = high(a, c)
  const odd1 = high(b, d)
  storeTwoRows(low(even1, odd1), dst + 4 * cols, cols)
  storeTwoRows(high(even1, odd1), dst + 6 * cols, cols)
}

function storeTwoRows(x: v128, dst: usize, cols: usize): void {
  v128.store64_lane(dst, x, 0)
  v128.store64_lane(dst + cols, x, 1)
}

/**
 * Codes of a panel, u8 `[position][48]`, → 48 rows of `cols` codes, row-major, natural column order.
 * `place`: u32 [cols], 192 · position of each column.
 */
export function codesToRows(codes: usize, dst: usize, place: usize, cols: i32): void {
  const whole = cols & ~7
  for (let c = 0; c < whole; c += 8) {
    const at = place + ((<usize>c) << 2)
    for (let r: usize = 0; r < ROWS; r += 16) transpose8(codes + r, at, dst + r * cols + c, cols)
  }
  for (let c = whole; c < cols; c++) {
    const from = codes + (load<u32>(place + ((<usize>c) << 2)) >> 2)
    for (let r: usize = 0; r < ROWS; r++) store<u8>(dst + r * cols + c, load<u8>(from + r))
  }
}
