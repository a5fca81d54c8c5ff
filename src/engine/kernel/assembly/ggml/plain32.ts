/** Blocks of 32 weights whose scale is that of the extreme: quantize_row_q4_0_ref and its kin, MXFP4. x: f32 [32]. */
import { extreme, narrow } from './lanes'
import { storeHalf } from './numbers'
import { packFifthBits, packNibbles } from './pack'
import { CODES } from './scratch'

/** Codes of Q4 or Q5 blocks into their place. */
export function storeCodes(codes: usize, bits: i32, at: usize): void {
  if (bits === 5) packFifthBits(codes, at)
  packNibbles(codes, 32, 16, bits === 5 ? at + 4 : at)
}

function smallest(v: v128): f32 {
  const pairs = f32x4.pmin(v, v128.shuffle<f32>(v, v, 2, 3, 0, 1))
  return f32x4.extract_lane(f32x4.pmin(pairs, v128.shuffle<f32>(pairs, pairs, 1, 0, 3, 2)), 0)
}

function greatest(v: v128): f32 {
  return -smallest(f32x4.neg(v))
}

function least32(x: usize): v128 {
  let least = v128.load(x)
  for (let i: usize = 16; i < 128; i += 16) least = f32x4.pmin(least, v128.load(x + i))
  return least
}

function most32(x: usize): v128 {
  let most = v128.load(x)
  for (let i: usize = 16; i < 128; i += 16) most = f32x4.pmax(most, v128.load(x + i))
  return most
}

/** `extreme`, which decides between equals of two signs. */
function extreme32(x: usize): f32 {
  const least = smallest(least32(x))
  const most = greatest(most32(x))
  if (most > -least) return most
  return most < -least ? least : extreme(x, 32)
}

/** The least value; of a zero and a negative zero the first. */
function minimum32(x: usize): f32 {
  const least = smallest(least32(x))
  if (least !== 0) return least
  while (load<f32>(x) !== 0) x += 4
  return load<f32>(x)
}

/** 0 for a scale of 0; infinite for one below 2^-128, whose codes are 0 on x86. */
function inverseOf(d: f32): f32 {
  return d !== 0 ? <f32>1 / d : 0
}

function whole(x: usize, i: usize, first: v128, inverse: v128, offset: v128): v128 {
  const scaled = f32x4.add(f32x4.mul(f32x4.sub(v128.load(x + i), first), inverse), offset)
  return i32x4.trunc_sat_f32x4_s(scaled)
}

/** (x − first) · inverse + offset, cut off below the point, at most `most`. */
function cutOff(x: usize, first: f32, inverse: f32, offset: f32, most: i32, codes: usize): void {
  if (inverse === Infinity || inverse === -Infinity) {
    memory.fill(codes, 0, 32)
    return
  }
  const from = f32x4.splat(first)
  const by = f32x4.splat(inverse)
  const more = f32x4.splat(offset)
  const limit = i8x16.splat(<i8>most)
  for (let i: usize = 0; i < 128; i += 64) {
    const a = whole(x, i, from, by, more)
    const b = whole(x, i + 16, from, by, more)
    const c = whole(x, i + 32, from, by, more)
    const d = whole(x, i + 48, from, by, more)
    v128.store(codes + (i >> 2), i8x16.min_u(narrow(a, b, c, d), limit))
  }
}

/** Q4_0, Q5_0. */
export function roundSymmetric(bits: i32, x: usize, scratch: usize, out: usize): void {
  const levels = 1 << (bits - 1)
  const d = extreme32(x) / <f32>-levels
  storeHalf(out, d)
  cutOff(x, 0, inverseOf(d), <f32>levels + 0.5, 2 * levels - 1, scratch + CODES)
  storeCodes(scratch + CODES, bits, out + 2)
}

/** Q4_1, Q5_1. */
export function roundAffine(bits: i32, x: usize, scratch: usize, out: usize): void {
  const levels = (1 << bits) - 1
  const least = minimum32(x)
  const most = greatest(most32(x))
  const d: f32 = most > least ? (most - least) / <f32>levels : 0
  storeHalf(out, d)
  storeHalf(out + 2, least)
  cutOff(x, least, inverseOf(d), 0.5, levels, scratch + CODES)
  storeCodes(scratch + CODES, bits, out + 4)
}

/** x · inverse to the nearest integer, halves away from zero. */
function awayFromZero(x: usize, inverse: v128): v128 {
  const scaled = f32x4.mul(v128.load(x), inverse)
  const whole = f32x4.trunc(scaled)
  const half = f32x4.ge(f32x4.abs(f32x4.sub(scaled, whole)), f32x4.splat(0.5))
  const one = v128.or(f32x4.splat(1), v128.and(scaled, f32x4.splat(-0.0)))
  return i32x4.trunc_sat_f32x4_s(f32x4.add(whole, v128.and(one, half)))
}

/** Q8_0. */
export function roundBytes(x: usize, out: usize): void {
  const d = abs(extreme32(x)) / 127
  storeHalf(out, d)
  const inverse = inverseOf(d)
  const by = f32x4.splat(inverse === Infinity ? 0 : inverse)
  for (let i: usize = 0; i < 128; i += 64) {
    const low = i16x8.narrow_i32x4_s(awayFromZero(x + i, by), awayFromZero(x + i + 16, by))
    const high = i16x8.narrow_i32x4_s(awayFromZero(x + i + 32, by), awayFromZero(x + i + 48, by))
    v128.store(out + 2 + (i >> 2), i8x16.narrow_i16x8_s(low, high))
  }
}
