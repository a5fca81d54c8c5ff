/** Rows of numbers to lanes of vectors and back. */

/** Four rows of n (a multiple of 4) floats side by side: element i of row r at into + 16 i + 4 r. The last of fewer rows fills the other lanes. */
export function interleave(from: usize, stride: usize, rows: usize, n: usize, into: usize): void {
  const second = from + (rows > 1 ? stride : 0)
  const third = second + (rows > 2 ? stride : 0)
  const fourth = third + (rows > 3 ? stride : 0)
  for (let i: usize = 0; i < n << 2; i += 16) {
    const a = v128.load(from + i)
    const b = v128.load(second + i)
    const c = v128.load(third + i)
    const d = v128.load(fourth + i)
    const abLow = v128.shuffle<f32>(a, b, 0, 4, 1, 5)
    const cdLow = v128.shuffle<f32>(c, d, 0, 4, 1, 5)
    const abHigh = v128.shuffle<f32>(a, b, 2, 6, 3, 7)
    const cdHigh = v128.shuffle<f32>(c, d, 2, 6, 3, 7)
    const at = into + (i << 2)
    v128.store(at, v128.shuffle<f32>(abLow, cdLow, 0, 1, 4, 5))
    v128.store(at, v128.shuffle<f32>(abLow, cdLow, 2, 3, 6, 7), 16)
    v128.store(at, v128.shuffle<f32>(abHigh, cdHigh, 0, 1, 4, 5), 32)
    v128.store(at, v128.shuffle<f32>(abHigh, cdHigh, 2, 3, 6, 7), 48)
  }
}

/** Four vectors of i32 from 0 to 255 as 16 bytes; what is beyond is cut. */
export function narrow(a: v128, b: v128, c: v128, d: v128): v128 {
  return i8x16.narrow_i16x8_u(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d))
}

/** The value of greatest magnitude in each lane of x f32x4 [n], with its sign; the first of equals. */
export function extremes(x: usize, n: usize): v128 {
  let magnitude = f32x4.splat(0)
  let found = f32x4.splat(0)
  for (let i: usize = 0; i < n << 4; i += 16) {
    const v = v128.load(x + i)
    const size = f32x4.abs(v)
    found = v128.bitselect(v, found, f32x4.gt(size, magnitude))
    magnitude = f32x4.pmax(magnitude, size)
  }
  return found
}

/** The same of x f32 [n]. */
export function extreme(x: usize, n: usize): f32 {
  let magnitude: f32 = 0
  let found: f32 = 0
  for (let i: usize = 0; i < n << 2; i += 4) {
    const v = load<f32>(x + i)
    if (abs(v) > magnitude) {
      magnitude = abs(v)
      found = v
    }
  }
  return found
}
