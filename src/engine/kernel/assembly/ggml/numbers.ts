/** Numbers as ggml rounds them. Every operation is rounded to float32, in the order of its C code; there is no fused multiply-add. */
import { MAGIC } from '../simd'

/** An integer, half to even, for |x| ≤ 4194303 (nearest_int). */
export function nearest(x: f32): f32 {
  return x + MAGIC - MAGIC
}

export function atMost(x: f32, high: f32): f32 {
  if (x > high) return high
  return x
}

export function clampTo(x: f32, low: f32, high: f32): f32 {
  return x < low ? low : x > high ? high : x
}

/** The F16 nearest to x, half to even. */
export function toHalf(x: f32): u32 {
  const bits = reinterpret<u32>(x)
  const sign = (bits >> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude >= 0x47800000) return sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00) // 65536 and more
  if (magnitude < 0x38800000) {
    // below 2^-14: a sum with 0.5 leaves multiples of 2^-24
    return sign | (reinterpret<u32>(reinterpret<f32>(magnitude) + <f32>0.5) - 0x3f000000)
  }
  const odd = (magnitude >> 13) & 1
  return sign | ((magnitude - 0x38000000 + 0xfff + odd) >> 13)
}

export function fromHalf(half: u32): f32 {
  const sign = (half & 0x8000) << 16
  const moved = (half & 0x7fff) << 13
  if (moved >= 0x0f800000) return reinterpret<f32>(sign | 0x7f800000 | moved) // infinite or NaN
  if (moved >= 0x00800000) return reinterpret<f32>(sign | (moved + 0x38000000))
  return reinterpret<f32>(sign | reinterpret<u32>(reinterpret<f32>(moved | 0x38800000) - reinterpret<f32>(0x38800000)))
}

/** A float as F16, stored at `at`; the value that it then has. */
export function storeHalf(at: usize, x: f32): f32 {
  const half = toHalf(x)
  store<u16>(at, half)
  return fromHalf(half)
}
