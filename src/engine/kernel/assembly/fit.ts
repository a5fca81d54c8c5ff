/**
 * Ranges, scales and offsets of groups, and the search of shrink factors; src/quantize/fit.ts is the reference, operation for operation.
 * `list`: u32, the columns of a group as byte offsets into the panel; `weighting`: float32, one a column of the list. An offset is the zero
 * point of an affine grid, the bias of a biased one. Type arguments name a decoding: u8 affine, u16 biased, u32 levels.
 */
import {
  BIAS,
  BIASED,
  COLUMN,
  KIND,
  LEVELS,
  MAX_CODE,
  MIDDLE,
  NARROWING_ADD,
  NARROWING_EVEN,
  NARROWING_LIMIT,
  NARROWING_MAGIC,
  NARROWING_SHIFT,
  REACH,
  SCALE,
  SCALE_FLOOR,
  SHRINK,
  SHRINKS,
  SYMMETRIC,
  TABLE,
  VECTOR,
  ZERO_HIGH,
  ZERO_LOW,
  ZERO_SCALE,
} from './layout'
import { placesOf, valuesAt } from './levels'
import { clamp, rne } from './simd'

/** Floats of any sign, rounded to a narrower dtype. */
function narrowed(x: v128, narrowing: usize): v128 {
  const shift = load<i32>(narrowing, NARROWING_SHIFT)
  if (shift === 0) return x
  const last = v128.and(i32x4.shr_u(x, shift), v128.load32_splat(narrowing, NARROWING_EVEN))
  const rounded = v128.and(
    i32x4.add(i32x4.add(x, v128.load32_splat(narrowing, NARROWING_ADD)), last),
    i32x4.splat(-1 << shift),
  )
  const magic = v128.load32_splat(narrowing, NARROWING_MAGIC)
  const small = f32x4.sub(f32x4.add(x, magic), magic)
  return v128.bitselect(small, rounded, f32x4.lt(f32x4.abs(x), v128.load32_splat(narrowing, NARROWING_LIMIT)))
}

/** Positive scales as they are stored. */
function stored(scale: v128, grid: usize): v128 {
  return f32x4.pmax(narrowed(scale, grid + SCALE), v128.load32_splat(grid, SCALE_FLOOR))
}

/** Scales of grids with the same reach on both sides of 0. */
function evenScale(low: v128, high: v128, reach: v128, grid: usize): v128 {
  const largest = f32x4.pmax(high, f32x4.neg(low))
  const scale = stored(f32x4.div(largest, reach), grid)
  return v128.bitselect(v128.load32_splat(grid, ZERO_SCALE), scale, f32x4.eq(largest, f32x4.splat(0)))
}

/** The scale before a zero point that is out of the format's range moves it. */
function spanScale(low: v128, high: v128, grid: usize): v128 {
  return stored(f32x4.div(f32x4.sub(high, low), v128.load32_splat(grid, MAX_CODE)), grid)
}

function wantedZero(low: v128, scale: v128): v128 {
  return rne(f32x4.div(f32x4.neg(low), scale))
}

/** The end of the range that is farther from 0. */
function edgeOf(low: v128, high: v128): v128 {
  return v128.bitselect(low, high, f32x4.gt(f32x4.abs(low), f32x4.abs(high)))
}

/** Steps of a biased grid, negative where the edge is the high end. */
function signedStep(low: v128, high: v128, grid: usize): v128 {
  const span = f32x4.div(f32x4.sub(high, low), v128.load32_splat(grid, MAX_CODE))
  const step = f32x4.pmax(span, f32x4.splat(1e-7))
  return v128.bitselect(step, f32x4.neg(step), f32x4.gt(f32x4.abs(low), f32x4.abs(high)))
}

/** Scales of four rows for a range. */
function scaleOf(low: v128, high: v128, grid: usize): v128 {
  const kind = load<i32>(grid, KIND)
  if (kind === SYMMETRIC)
    return evenScale(low, high, f32x4.mul(v128.load32_splat(grid, MAX_CODE), f32x4.splat(0.5)), grid)
  if (kind === LEVELS) return evenScale(low, high, v128.load32_splat(grid, REACH), grid)
  if (kind === BIASED) {
    const step = signedStep(low, high, grid)
    const edge = edgeOf(low, high)
    const codes = rne(f32x4.div(edge, step))
    const raw = v128.bitselect(step, f32x4.div(edge, codes), f32x4.eq(codes, f32x4.splat(0)))
    const sign = v128.and(raw, i32x4.splat(0x80000000))
    return v128.or(stored(f32x4.abs(raw), grid), sign)
  }
  const first = spanScale(low, high, grid)
  const zeroLow = v128.load32_splat(grid, ZERO_LOW)
  const moved = stored(f32x4.div(high, f32x4.sub(v128.load32_splat(grid, MAX_CODE), zeroLow)), grid)
  const scale = v128.bitselect(moved, first, f32x4.lt(wantedZero(low, first), zeroLow))
  return v128.bitselect(f32x4.splat(1), scale, f32x4.eq(f32x4.sub(high, low), f32x4.splat(0)))
}

/** Offsets of four rows. */
function offsetOf(low: v128, high: v128, grid: usize): v128 {
  const kind = load<i32>(grid, KIND)
  if (kind === SYMMETRIC) return v128.load32_splat(grid, MIDDLE)
  if (kind === LEVELS) return f32x4.splat(0)
  if (kind === BIASED) {
    const edge = edgeOf(low, high)
    const codes = rne(f32x4.div(edge, signedStep(low, high, grid)))
    return v128.bitselect(f32x4.splat(0), narrowed(edge, grid + BIAS), f32x4.eq(codes, f32x4.splat(0)))
  }
  const wanted = wantedZero(low, spanScale(low, high, grid))
  return clamp(wanted, v128.load32_splat(grid, ZERO_LOW), v128.load32_splat(grid, ZERO_HIGH))
}

// What `errors` found, for two candidates.
let errorA: v128 = i32x4.splat(0)
let errorB: v128 = i32x4.splat(0)

/**
 * Σ weight · (y − clamp(rne(y), low, high))², y = x · inverse: the squared error of four rows in code units, summed in the list's order, for
 * two candidates. 2 · 9 operations for each load of x.
 */
function errors(
  rows: usize,
  list: usize,
  end: usize,
  weighting: usize,
  inverseA: v128,
  lowA: v128,
  highA: v128,
  inverseB: v128,
  lowB: v128,
  highB: v128,
): void {
  let a = f32x4.splat(0)
  let b = a
  while (list < end) {
    const x = v128.load(rows + load<u32>(list))
    const weight = v128.load32_splat(weighting)
    const y = f32x4.mul(x, inverseA)
    const r = f32x4.sub(y, clamp(rne(y), lowA, highA))
    a = f32x4.add(a, f32x4.mul(weight, f32x4.mul(r, r)))
    const Y = f32x4.mul(x, inverseB)
    const R = f32x4.sub(Y, clamp(rne(Y), lowB, highB))
    b = f32x4.add(b, f32x4.mul(weight, f32x4.mul(R, R)))
    list += 4
    weighting += 4
  }
  errorA = a
  errorB = b
}

/** Σ weight · r², r the residual of a biased grid or of levels in units of the scale, summed in the list's order. */
function errorsOf<D>(
  rows: usize,
  list: usize,
  end: usize,
  weighting: usize,
  scale: v128,
  offset: v128,
  grid: usize,
): v128 {
  const inverse = f32x4.div(f32x4.splat(1), scale)
  const maxCode = v128.load32_splat(grid, MAX_CODE)
  const table = <usize>load<u32>(grid, TABLE)
  let sum = f32x4.splat(0)
  while (list < end) {
    const x = v128.load(rows + load<u32>(list))
    let r: v128
    if (sizeof<D>() === 2) {
      const y = f32x4.mul(f32x4.sub(x, offset), inverse)
      r = f32x4.sub(y, clamp(rne(y), f32x4.splat(0), maxCode))
    } else {
      const y = f32x4.mul(x, inverse)
      r = f32x4.sub(y, valuesAt(placesOf(y, table), table))
    }
    sum = f32x4.add(sum, f32x4.mul(v128.load32_splat(weighting), f32x4.mul(r, r)))
    list += 4
    weighting += 4
  }
  return sum
}

/** Fits one group of 48 rows: scales and offsets, [48] each. */
export function fitGroup(
  panel: usize,
  list: usize,
  weighting: usize,
  count: i32,
  grid: usize,
  scale: usize,
  offset: usize,
): void {
  const end = list + ((<usize>count) << 2)
  const shrinks = load<i32>(grid, SHRINKS)
  const kind = load<i32>(grid, KIND)
  for (let row: usize = 0; row < COLUMN; row += VECTOR) {
    let low = f32x4.splat(kind === BIASED ? Infinity : 0)
    let high = f32x4.splat(kind === BIASED ? -Infinity : 0)
    for (let at = list; at < end; at += 4) {
      const x = v128.load(panel + row + load<u32>(at))
      low = f32x4.pmin(low, x)
      high = f32x4.pmax(high, x)
    }
    let bestScale = scaleOf(low, high, grid)
    let bestOffset = offsetOf(low, high, grid)
    if (shrinks > 1 && kind >= BIASED) {
      const full = bestScale
      let best = f32x4.splat(Infinity)
      for (let i = 0; i < shrinks; i++) {
        const shrink = v128.load32_splat(grid + ((<usize>i) << 2), SHRINK)
        const lowest = f32x4.mul(low, shrink)
        const highest = f32x4.mul(high, shrink)
        const s = scaleOf(lowest, highest, grid)
        const b = offsetOf(lowest, highest, grid)
        const error =
          kind === BIASED
            ? errorsOf<u16>(panel + row, list, end, weighting, s, b, grid)
            : errorsOf<u32>(panel + row, list, end, weighting, s, b, grid)
        const ratio = f32x4.div(s, full)
        const total = f32x4.mul(error, f32x4.mul(ratio, ratio))
        const better = f32x4.lt(total, best)
        best = v128.bitselect(total, best, better)
        bestScale = v128.bitselect(s, bestScale, better)
        bestOffset = v128.bitselect(b, bestOffset, better)
      }
    } else if (shrinks > 1) {
      const one = f32x4.splat(1)
      const full = bestScale
      const maxCode = v128.load32_splat(grid, MAX_CODE)
      let best = f32x4.splat(Infinity)
      for (let i = 0; i < shrinks; i += 2) {
        const shrinkA = v128.load32_splat(grid + ((<usize>i) << 2), SHRINK)
        const shrinkB = v128.load32_splat(grid + ((<usize>i) << 2), SHRINK + 4)
        const zeroA = offsetOf(f32x4.mul(low, shrinkA), f32x4.mul(high, shrinkA), grid)
        const zeroB = offsetOf(f32x4.mul(low, shrinkB), f32x4.mul(high, shrinkB), grid)
        const scaleA = scaleOf(f32x4.mul(low, shrinkA), f32x4.mul(high, shrinkA), grid)
        const scaleB = scaleOf(f32x4.mul(low, shrinkB), f32x4.mul(high, shrinkB), grid)
        errors(
          panel + row,
          list,
          end,
          weighting,
          f32x4.div(one, scaleA),
          f32x4.neg(zeroA),
          f32x4.sub(maxCode, zeroA),
          f32x4.div(one, scaleB),
          f32x4.neg(zeroB),
          f32x4.sub(maxCode, zeroB),
        )
        // relative to the full range's scale, so that neither square under- nor overflows
        const ratioA = f32x4.div(scaleA, full)
        const ratioB = f32x4.div(scaleB, full)
        const totalA = f32x4.mul(errorA, f32x4.mul(ratioA, ratioA))
        const totalB = f32x4.mul(errorB, f32x4.mul(ratioB, ratioB))
        let better = f32x4.lt(totalA, best)
        best = v128.bitselect(totalA, best, better)
        bestScale = v128.bitselect(scaleA, bestScale, better)
        bestOffset = v128.bitselect(zeroA, bestOffset, better)
        better = f32x4.lt(totalB, best)
        best = v128.bitselect(totalB, best, better)
        bestScale = v128.bitselect(scaleB, bestScale, better)
        bestOffset = v128.bitselect(zeroB, bestOffset, better)
      }
    }
    v128.store(scale + row, bestScale)
    v128.store(offset + row, bestOffset)
  }
}

/** Fits `groups` groups of `unit` columns, consecutive in the list: [groups][48] scales and offsets; the last may have fewer columns. */
export function fitGroups(
  panel: usize,
  list: usize,
  weighting: usize,
  unit: i32,
  groups: i32,
  grid: usize,
  cols: i32,
  scales: usize,
  offsets: usize,
): void {
  const step = (<usize>unit) << 2
  for (let group = 0; group < groups; group++) {
    fitGroup(panel, list, weighting, min(unit, cols - group * unit), grid, scales, offsets)
    list += step
    weighting += step
    scales += COLUMN
    offsets += COLUMN
  }
}

/** Range of each row over all columns: low and high, [48] each, 0 held inside. */
export function panelRange(panel: usize, cols: i32, lows: usize, highs: usize): void {
  const end = panel + <usize>cols * COLUMN
  for (let row: usize = 0; row < COLUMN; row += VECTOR) {
    let low = f32x4.splat(0)
    let high = low
    for (let at = panel + row; at < end; at += COLUMN) {
      const x = v128.load(at)
      low = f32x4.pmin(low, x)
      high = f32x4.pmax(high, x)
    }
    v128.store(lows + row, low)
    v128.store(highs + row, high)
  }
}

/**
 * Squared errors in code units of each row over a list of `cols` columns, for an even number of candidates that all rows share.
 * `candidates`: f32 [count][3] (inverse scale, −zero, maxCode − zero); `sums`: f32 [count][48].
 */
export function panelErrors(
  panel: usize,
  list: usize,
  weighting: usize,
  cols: i32,
  candidates: usize,
  count: i32,
  sums: usize,
): void {
  const end = list + ((<usize>cols) << 2)
  for (let i = 0; i < count; i += 2) {
    for (let row: usize = 0; row < COLUMN; row += VECTOR) {
      errors(
        panel + row,
        list,
        end,
        weighting,
        v128.load32_splat(candidates),
        v128.load32_splat(candidates, 4),
        v128.load32_splat(candidates, 8),
        v128.load32_splat(candidates, 12),
        v128.load32_splat(candidates, 16),
        v128.load32_splat(candidates, 20),
      )
      v128.store(sums + row, errorA)
      v128.store(sums + row, errorB, 192)
    }
    candidates += 24
    sums += 2 * COLUMN
  }
}
