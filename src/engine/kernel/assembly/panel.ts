/**
 * Stored rows → panel: 48 rows of `cols` values, row-major, become `[position][48]` float32.
 * `place`: u32 [cols], where each column goes, in bytes (192 · position). The kernels return 1 when a value is NaN or infinite, else 0.
 */
import { ROWS } from './layout'
import { widen } from './widen'

/** Bits of the smallest infinite magnitude. */
function infinity16<T>(): i16 {
  return isSigned<T>() ? 0x7c00 : 0x7f80
}

/** Largest magnitude so far, as bits. */
function magnitude16(seen: v128, x: v128): v128 {
  return i16x8.max_s(seen, v128.and(x, i16x8.splat(0x7fff)))
}

/** x: four rows of column `p`, then four rows of column `q`. */
function storeColumns<T>(x: v128, p: usize, q: usize): void {
  v128.store(p, widen<T>(i32x4.extend_low_i16x8_u(x)))
  v128.store(q, widen<T>(i32x4.extend_high_i16x8_u(x)))
}

function panelFrom16<T>(src: usize, dst: usize, place: usize, cols: i32): i32 {
  const line = (<usize>cols) << 1
  const whole = cols & ~7
  let seen = i16x8.splat(0)
  for (let r0: usize = 0; r0 < ROWS; r0 += 16) {
    for (let c = 0; c < whole; c += 8) {
      const at = place + ((<usize>c) << 2)
      for (let r = r0; r < r0 + 16; r += 4) {
        const s = src + r * line + ((<usize>c) << 1)
        const row0 = v128.load(s)
        const row1 = v128.load(s + line)
        const row2 = v128.load(s + 2 * line)
        const row3 = v128.load(s + 3 * line)
        seen = magnitude16(magnitude16(magnitude16(magnitude16(seen, row0), row1), row2), row3)
        const low01 = i16x8.shuffle(row0, row1, 0, 8, 1, 9, 2, 10, 3, 11)
        const low23 = i16x8.shuffle(row2, row3, 0, 8, 1, 9, 2, 10, 3, 11)
        const high01 = i16x8.shuffle(row0, row1, 4, 12, 5, 13, 6, 14, 7, 15)
        const high23 = i16x8.shuffle(row2, row3, 4, 12, 5, 13, 6, 14, 7, 15)
        const to = dst + (r << 2)
        storeColumns<T>(i32x4.shuffle(low01, low23, 0, 4, 1, 5), to + load<u32>(at), to + load<u32>(at, 4))
        storeColumns<T>(i32x4.shuffle(low01, low23, 2, 6, 3, 7), to + load<u32>(at, 8), to + load<u32>(at, 12))
        storeColumns<T>(i32x4.shuffle(high01, high23, 0, 4, 1, 5), to + load<u32>(at, 16), to + load<u32>(at, 20))
        storeColumns<T>(i32x4.shuffle(high01, high23, 2, 6, 3, 7), to + load<u32>(at, 24), to + load<u32>(at, 28))
      }
    }
  }
  for (let c = whole; c < cols; c++) {
    const to = dst + load<u32>(place + ((<usize>c) << 2))
    for (let r: usize = 0; r < ROWS; r++) {
      const x = i32x4.splat(load<u16>(src + r * line + ((<usize>c) << 1)))
      seen = magnitude16(seen, x)
      store<f32>(to + (r << 2), f32x4.extract_lane(widen<T>(x), 0))
    }
  }
  return <i32>v128.any_true(i16x8.ge_s(seen, i16x8.splat(infinity16<T>())))
}

export function panelFromBf16(src: usize, dst: usize, place: usize, cols: i32): i32 {
  return panelFrom16<u16>(src, dst, place, cols)
}

export function panelFromF16(src: usize, dst: usize, place: usize, cols: i32): i32 {
  return panelFrom16<i16>(src, dst, place, cols)
}

function magnitude32(seen: v128, x: v128): v128 {
  return i32x4.max_s(seen, v128.and(x, i32x4.splat(0x7fffffff)))
}

export function panelFromF32(src: usize, dst: usize, place: usize, cols: i32): i32 {
  const line = (<usize>cols) << 2
  const whole = cols & ~3
  let seen = i32x4.splat(0)
  for (let r0: usize = 0; r0 < ROWS; r0 += 16) {
    for (let c = 0; c < whole; c += 4) {
      const at = place + ((<usize>c) << 2)
      for (let r = r0; r < r0 + 16; r += 4) {
        const s = src + r * line + ((<usize>c) << 2)
        const row0 = v128.load(s)
        const row1 = v128.load(s + line)
        const row2 = v128.load(s + 2 * line)
        const row3 = v128.load(s + 3 * line)
        seen = magnitude32(magnitude32(magnitude32(magnitude32(seen, row0), row1), row2), row3)
        const low01 = i32x4.shuffle(row0, row1, 0, 4, 1, 5)
        const low23 = i32x4.shuffle(row2, row3, 0, 4, 1, 5)
        const high01 = i32x4.shuffle(row0, row1, 2, 6, 3, 7)
        const high23 = i32x4.shuffle(row2, row3, 2, 6, 3, 7)
        const to = dst + (r << 2)
        v128.store(to + load<u32>(at), i64x2.shuffle(low01, low23, 0, 2))
        v128.store(to + load<u32>(at, 4), i64x2.shuffle(low01, low23, 1, 3))
        v128.store(to + load<u32>(at, 8), i64x2.shuffle(high01, high23, 0, 2))
        v128.store(to + load<u32>(at, 12), i64x2.shuffle(high01, high23, 1, 3))
      }
    }
  }
  for (let c = whole; c < cols; c++) {
    const to = dst + load<u32>(place + ((<usize>c) << 2))
    for (let r: usize = 0; r < ROWS; r++) {
      const x = load<u32>(src + r * line + ((<usize>c) << 2))
      seen = magnitude32(seen, i32x4.splat(x))
      store<u32>(to + (r << 2), x)
    }
  }
  return <i32>v128.any_true(i32x4.ge_s(seen, i32x4.splat(0x7f800000)))
}
