/**
 * How far rows of a linear, decoded from their codes, are from the original ones. One pass over rows as they are stored, row-major;
 * sums and differences in float64. A row's sums do not depend on the other rows of a call.
 */
import { widen } from './widen'

/** Four stored values from `at` on, as float32. T: f32, or as in widen.ts. */
function loadFour<T>(at: usize): v128 {
  if (isFloat<T>()) return v128.load(at)
  return widen<T>(v128.load_ext<u16>(at))
}

function loadOne<T>(at: usize): f32 {
  if (isFloat<T>()) return load<f32>(at)
  return f32x4.extract_lane(widen<T>(i32x4.splat(load<u16>(at))), 0)
}

// The decode record: src/engine/kernel/layout.ts.
const DECODE_KIND: usize = 0
const LOW_CODE: usize = 4
const HIGH_CODE: usize = 8
const LOW_LEVEL: usize = 12
const HIGH_LEVEL: usize = 16
const LOW_HALF: usize = 20
const HIGH_HALF: usize = 24
const LEVEL_TABLE: usize = 32

/** One code decoded, with its group's parameters. */
function decodeOne<D>(code: f32, scale: f32, offset: f32): f32 {
  if (sizeof<D>() === 4) return code * scale
  if (sizeof<D>() === 2) return code * scale + offset
  return (code - offset) * scale
}

function decodeFour<D>(codes: v128, scale: v128, offset: v128): v128 {
  if (sizeof<D>() === 4) return f32x4.mul(codes, scale)
  if (sizeof<D>() === 2) return f32x4.add(f32x4.mul(codes, scale), offset)
  return f32x4.mul(f32x4.sub(codes, offset), scale)
}

/** What a code stands for before scaling: itself, or its level. */
function levelOf<D>(at: usize, record: usize): f32 {
  if (sizeof<D>() === 4) return load<f32>(record + ((<usize>load<u8>(at)) << 2), LEVEL_TABLE)
  return <f32>load<u8>(at)
}

function fourLevels<D>(at: usize, record: usize): v128 {
  if (sizeof<D>() !== 4) return loadCodes(at)
  const first = f32x4.splat(levelOf<D>(at, record))
  const one = f32x4.replace_lane(first, 1, levelOf<D>(at + 1, record))
  const two = f32x4.replace_lane(one, 2, levelOf<D>(at + 2, record))
  return f32x4.replace_lane(two, 3, levelOf<D>(at + 3, record))
}

/** Four codes → float32. */
function loadCodes(at: usize): v128 {
  return f32x4.convert_i32x4_u(i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(v128.load32_zero(at))))
}

/** The two high lanes, in the low ones. */
function highHalf(x: v128): v128 {
  return i64x2.shuffle(x, x, 1, 1)
}

/**
 * `source` [rows][cols] of T; `codes` u8 [rows][cols]; `scales` and `offsets` (zero points or biases) f32 [rows][groups]; `runs` u32 pairs: columns, and the
 * group they are of, `runCount` of them, covering cols. `sums` f64 [rows][4]: Σ w², Σ (w − ŵ)², max (w − ŵ)², and how many weights lie beyond
 * the value of the outermost code that they have by more than half of the step before it. D: the decoding, u8 affine, u16 biased, u32 levels. `values`, unless 0: f32 [3][rows][cols], takes w, ŵ and w − ŵ.
 */
function measure<T, D>(
  source: usize,
  codes: usize,
  scales: usize,
  offsets: usize,
  runs: usize,
  runCount: i32,
  groups: i32,
  rows: i32,
  cols: i32,
  record: usize,
  sums: usize,
  values: usize,
): void {
  const plane = (<usize>rows * <usize>cols) << 2
  for (let row = 0; row < rows; row++) {
    let energy0 = f64x2.splat(0)
    let energy1 = f64x2.splat(0)
    let error0 = f64x2.splat(0)
    let error1 = f64x2.splat(0)
    let largest = f64x2.splat(0)
    let energy: f64 = 0
    let error: f64 = 0
    let clipped = 0
    for (let run = 0; run < runCount; run++) {
      const group = <usize>load<u32>(runs + ((<usize>run) << 3), 4)
      const scale = load<f32>(scales + (group << 2))
      const offset = load<f32>(offsets + (group << 2))
      const first = <f64>decodeOne<D>(load<f32>(record, LOW_LEVEL), scale, offset)
      const last = <f64>decodeOne<D>(load<f32>(record, HIGH_LEVEL), scale, offset)
      const size = Math.abs(<f64>scale)
      const firstHalf = size * <f64>load<f32>(record, LOW_HALF)
      const lastHalf = size * <f64>load<f32>(record, HIGH_HALF)
      const low = scale < 0 ? last - lastHalf : first - firstHalf
      const high = scale < 0 ? first + firstHalf : last + lastHalf
      const lowCode = load<i32>(record + (scale < 0 ? HIGH_CODE : LOW_CODE))
      const highCode = load<i32>(record + (scale < 0 ? LOW_CODE : HIGH_CODE))
      const scale4 = f32x4.splat(scale)
      const offset4 = f32x4.splat(offset)
      const low2 = f64x2.splat(low)
      const high2 = f64x2.splat(high)
      let left = <i32>load<u32>(runs + ((<usize>run) << 3))
      for (; left >= 4; left -= 4) {
        const w = loadFour<T>(source)
        const decoded = decodeFour<D>(fourLevels<D>(codes, record), scale4, offset4)
        if (values) {
          v128.store(values, w)
          v128.store(values + plane, decoded)
          v128.store(values + 2 * plane, f32x4.sub(w, decoded))
          values += 16
        }
        const w0 = f64x2.promote_low_f32x4(w)
        const w1 = f64x2.promote_low_f32x4(highHalf(w))
        const d0 = f64x2.sub(w0, f64x2.promote_low_f32x4(decoded))
        const d1 = f64x2.sub(w1, f64x2.promote_low_f32x4(highHalf(decoded)))
        const square0 = f64x2.mul(d0, d0)
        const square1 = f64x2.mul(d1, d1)
        energy0 = f64x2.add(energy0, f64x2.mul(w0, w0))
        energy1 = f64x2.add(energy1, f64x2.mul(w1, w1))
        error0 = f64x2.add(error0, square0)
        error1 = f64x2.add(error1, square1)
        largest = f64x2.pmax(largest, f64x2.pmax(square0, square1))
        const below = v128.or(f64x2.lt(w0, low2), f64x2.lt(w1, low2))
        const above = v128.or(f64x2.gt(w0, high2), f64x2.gt(w1, high2))
        if (v128.any_true(v128.or(below, above))) {
          for (let i = 0; i < 4; i++)
            clipped += outside(
              <f64>loadOne<T>(source + i * sizeof<T>()),
              load<u8>(codes + i),
              low,
              high,
              lowCode,
              highCode,
            )
        }
        source += 4 * sizeof<T>()
        codes += 4
      }
      for (; left > 0; left--) {
        const w = loadOne<T>(source)
        const decoded = decodeOne<D>(levelOf<D>(codes, record), scale, offset)
        if (values) {
          store<f32>(values, w)
          store<f32>(values + plane, decoded)
          store<f32>(values + 2 * plane, w - decoded)
          values += 4
        }
        const difference = <f64>w - <f64>decoded
        const square = difference * difference
        energy += <f64>w * <f64>w
        error += square
        largest = f64x2.pmax(largest, f64x2.splat(square))
        clipped += outside(<f64>w, load<u8>(codes), low, high, lowCode, highCode)
        source += sizeof<T>()
        codes++
      }
    }
    energy0 = f64x2.add(energy0, energy1)
    error0 = f64x2.add(error0, error1)
    store<f64>(sums, f64x2.extract_lane(energy0, 0) + f64x2.extract_lane(energy0, 1) + energy)
    store<f64>(sums, f64x2.extract_lane(error0, 0) + f64x2.extract_lane(error0, 1) + error, 8)
    store<f64>(sums, Math.max(f64x2.extract_lane(largest, 0), f64x2.extract_lane(largest, 1)), 16)
    store<f64>(sums, clipped, 24)
    sums += 32
    scales += (<usize>groups) << 2
    offsets += (<usize>groups) << 2
  }
}

/** 1 for a weight that the outermost codes' values leave outside. */
function outside(w: f64, code: i32, low: f64, high: f64, lowCode: i32, highCode: i32): i32 {
  return (w < low && code === lowCode) || (w > high && code === highCode) ? 1 : 0
}

function measureFrom<T>(
  source: usize,
  codes: usize,
  scales: usize,
  offsets: usize,
  runs: usize,
  runCount: i32,
  groups: i32,
  rows: i32,
  cols: i32,
  record: usize,
  sums: usize,
  values: usize,
): void {
  const kind = load<i32>(record, DECODE_KIND)
  if (kind === 2)
    measure<T, u32>(source, codes, scales, offsets, runs, runCount, groups, rows, cols, record, sums, values)
  else if (kind === 1)
    measure<T, u16>(source, codes, scales, offsets, runs, runCount, groups, rows, cols, record, sums, values)
  else measure<T, u8>(source, codes, scales, offsets, runs, runCount, groups, rows, cols, record, sums, values)
}

/** `measure` of rows as they are stored: `dtype` 0 for bf16, 1 for f16, 2 for f32. */
export function measureRows(
  dtype: i32,
  source: usize,
  codes: usize,
  scales: usize,
  offsets: usize,
  runs: usize,
  runCount: i32,
  groups: i32,
  rows: i32,
  cols: i32,
  record: usize,
  sums: usize,
  values: usize,
): void {
  if (dtype === 0)
    measureFrom<u16>(source, codes, scales, offsets, runs, runCount, groups, rows, cols, record, sums, values)
  else if (dtype === 1)
    measureFrom<i16>(source, codes, scales, offsets, runs, runCount, groups, rows, cols, record, sums, values)
  else measureFrom<f32>(source, codes, scales, offsets, runs, runCount, groups, rows, cols, record, sums, values)
}
