/** Codes of n (a multiple of 16) values x f32 [n] in one scale: u8 [n], from 0 up. */
import { narrow } from './lanes'
import { cutSteps, stepsOf } from './numbers'

/** nearest(inverse · (x − origin)) cut to low … high, less low: what a search left. All 0 where the inverse is 0. */
export function codesByInverse(x: usize, n: usize, inverse: f32, origin: f32, low: i32, high: i32, codes: usize): void {
  if (inverse === 0) {
    memory.fill(codes, 0, n)
    return
  }
  const by = f32x4.splat(inverse)
  const from = f32x4.splat(origin)
  const least = stepsOf(low)
  const most = stepsOf(high)
  for (let i: usize = 0; i < n; i += 16) {
    const at = x + (i << 2)
    const a = i32x4.sub(cutSteps(f32x4.mul(by, f32x4.sub(v128.load(at), from)), least, most), least)
    const b = i32x4.sub(cutSteps(f32x4.mul(by, f32x4.sub(v128.load(at, 16), from)), least, most), least)
    const c = i32x4.sub(cutSteps(f32x4.mul(by, f32x4.sub(v128.load(at, 32), from)), least, most), least)
    const d = i32x4.sub(cutSteps(f32x4.mul(by, f32x4.sub(v128.load(at, 48), from)), least, most), least)
    v128.store(codes + i, narrow(a, b, c, d))
  }
}

/** nearest((x + min) / scale) cut to low … high, less low; the scale is not 0. */
export function codesByScale(x: usize, n: usize, scale: f32, min: f32, low: i32, high: i32, codes: usize): void {
  const by = f32x4.splat(scale)
  const more = f32x4.splat(min)
  const least = stepsOf(low)
  const most = stepsOf(high)
  for (let i: usize = 0; i < n; i += 16) {
    const at = x + (i << 2)
    const a = i32x4.sub(cutSteps(f32x4.div(f32x4.add(v128.load(at), more), by), least, most), least)
    const b = i32x4.sub(cutSteps(f32x4.div(f32x4.add(v128.load(at, 16), more), by), least, most), least)
    const c = i32x4.sub(cutSteps(f32x4.div(f32x4.add(v128.load(at, 32), more), by), least, most), least)
    const d = i32x4.sub(cutSteps(f32x4.div(f32x4.add(v128.load(at, 48), more), by), least, most), least)
    v128.store(codes + i, narrow(a, b, c, d))
  }
}
