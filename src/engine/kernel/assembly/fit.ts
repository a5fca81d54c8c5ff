/**
 * Ranges, scales and zero points of groups, and the search of shrink factors; src/quantize/fit.ts is the reference, operation for operation.
 * `list`: u32, the columns of a group as byte offsets into the panel; `weighting`: float32, one a column of the list.
 */
import {
  COLUMN,
  MAX_CODE,
  MIDDLE,
  SCALE_FLOOR,
  SCALE_SHIFT,
  SHRINK,
  SHRINKS,
  SYMMETRIC,
  VECTOR,
  ZERO_HIGH,
  ZERO_LOW,
} from './layout'
import { clamp, rne } from './simd'

/** Positive scales, rounded half to even to the storage's dtype, at least its smallest normal number. */
function stored(scale: v128, grid: usize): v128 {
  const shift = load<i32>(grid, SCALE_SHIFT)
  if (shift !== 0) {
    const odd = v128.and(i32x4.shr_u(scale, shift), i32x4.splat(1))
    const rounded = i32x4.add(i32x4.add(scale, i32x4.splat((1 << (shift - 1)) - 1)), odd)
    scale = v128.and(rounded, i32x4.splat(-1 << shift))
  }
  return f32x4.pmax(scale, v128.load32_splat(grid, SCALE_FLOOR))
}

function symmetricScale(low: v128, high: v128, grid: usize): v128 {
  const largest = f32x4.pmax(high, f32x4.neg(low))
  const scale = stored(f32x4.div(largest, f32x4.mul(v128.load32_splat(grid, MAX_CODE), f32x4.splat(0.5))), grid)
  return v128.bitselect(f32x4.splat(1), scale, f32x4.eq(largest, f32x4.splat(0)))
}

/** The scale before a zero point that is out of the format's range moves it. */
function spanScale(low: v128, high: v128, grid: usize): v128 {
  return stored(f32x4.div(f32x4.sub(high, low), v128.load32_splat(grid, MAX_CODE)), grid)
}

function wantedZero(low: v128, scale: v128): v128 {
  return rne(f32x4.div(f32x4.neg(low), scale))
}

/** Scales of four rows for the range low ≤ 0 ≤ high. */
function scaleOf(low: v128, high: v128, grid: usize): v128 {
  if (load<i32>(grid, SYMMETRIC)) return symmetricScale(low, high, grid)
  const first = spanScale(low, high, grid)
  const zeroLow = v128.load32_splat(grid, ZERO_LOW)
  const moved = stored(f32x4.div(high, f32x4.sub(v128.load32_splat(grid, MAX_CODE), zeroLow)), grid)
  const scale = v128.bitselect(moved, first, f32x4.lt(wantedZero(low, first), zeroLow))
  return v128.bitselect(f32x4.splat(1), scale, f32x4.eq(f32x4.sub(high, low), f32x4.splat(0)))
}

/** Zero points of four rows, in code units. */
function zeroOf(low: v128, high: v128, grid: usize): v128 {
  if (load<i32>(grid, SYMMETRIC)) return v128.load32_splat(grid, MIDDLE)
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

/** Fits one group of 48 rows: scale and zero to `scale` and `zero`, [48] each. */
export function fitGroup(
  panel: usize,
  list: usize,
  weighting: usize,
  count: i32,
  grid: usize,
  scale: usize,
  zero: usize,
): void {
  const end = list + ((<usize>count) << 2)
  const shrinks = load<i32>(grid, SHRINKS)
  for (let row: usize = 0; row < COLUMN; row += VECTOR) {
    let low = f32x4.splat(0)
    let high = low
    for (let at = list; at < end; at += 4) {
      const x = v128.load(panel + row + load<u32>(at))
      low = f32x4.pmin(low, x)
      high = f32x4.pmax(high, x)
    }
    let bestScale = scaleOf(low, high, grid)
    let bestZero = zeroOf(low, high, grid)
    if (shrinks > 1) {
      const one = f32x4.splat(1)
      const full = bestScale
      const maxCode = v128.load32_splat(grid, MAX_CODE)
      let best = f32x4.splat(Infinity)
      for (let i = 0; i < shrinks; i += 2) {
        const shrinkA = v128.load32_splat(grid + ((<usize>i) << 2), SHRINK)
        const shrinkB = v128.load32_splat(grid + ((<usize>i) << 2), SHRINK + 4)
        const zeroA = zeroOf(f32x4.mul(low, shrinkA), f32x4.mul(high, shrinkA), grid)
        const zeroB = zeroOf(f32x4.mul(low, shrinkB), f32x4.mul(high, shrinkB), grid)
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
        bestZero = v128.bitselect(zeroA, bestZero, better)
        better = f32x4.lt(totalB, best)
        best = v128.bitselect(totalB, best, better)
        bestScale = v128.bitselect(scaleB, bestScale, better)
        bestZero = v128.bitselect(zeroB, bestZero, better)
      }
    }
    v128.store(scale + row, bestScale)
    v128.store(zero + row, bestZero)
  }
}

/** Fits `groups` groups of `unit` columns, consecutive in the list: [groups][48] scales and zeros. */
export function fitGroups(
  panel: usize,
  list: usize,
  weighting: usize,
  unit: i32,
  groups: i32,
  grid: usize,
  scales: usize,
  zeros: usize,
): void {
  const step = (<usize>unit) << 2
  for (let group = 0; group < groups; group++) {
    fitGroup(panel, list, weighting, unit, grid, scales, zeros)
    list += step
    weighting += step
    scales += COLUMN
    zeros += COLUMN
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
