/** Numbers as ggml rounds them. Every operation is rounded to float32, in the order of its C code; there is no fused multiply-add. */
import { MAGIC } from '../simd'

/** What the mantissa of x + MAGIC holds for x = 0. */
const ZERO: i32 = 0x400000

/** nearest_int: half to even, for |x| ≤ 4194303. What is beyond or infinite wraps to what it is in ggml; NaN is 0. */
export function nearest(x: f32): i32 {
  return (reinterpret<i32>(x + MAGIC) & 0x7fffff) - ZERO
}

/** A level as `cutSteps` counts it, in all lanes. */
export function stepsOf(level: i32): v128 {
  return i32x4.splat(ZERO + level)
}

/** `nearest` of each lane cut to low … high; these and the result count from −2^22 (`stepsOf`), which saves an operation. */
export function cutSteps(x: v128, low: v128, high: v128): v128 {
  const steps = v128.and(f32x4.add(x, f32x4.splat(MAGIC)), i32x4.splat(0x7fffff))
  return i32x4.min_s(i32x4.max_s(steps, low), high)
}

/** Steps as float levels. */
export function asLevels(steps: v128): v128 {
  return f32x4.sub(v128.or(steps, i32x4.splat(0x4b000000)), f32x4.splat(MAGIC))
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
