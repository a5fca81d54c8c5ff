/**
 * Rounding of a panel, with and without error feedback. The sweep is GPTQ (Frantar et al. 2023, algorithm 1), left-looking: a column
 * receives the errors of all earlier columns at once, in their order, so every weight sees the same float32 operations as in the
 * right-looking reference (src/quantize/rounding/gptq.ts), and no barrier is needed. A pair of columns by 16 rows of accumulators fits the
 * 16 registers of x86: 30 GFLOP/s a thread where a loop over one column makes 8.
 *
 * `panel` f32 [cols][48] in sweep order, overwritten; `errors` f32 [cols][48]; `codes` u8 [cols][48]; `scales`, `offsets` f32 [groups][48];
 * `groupAt` u32 [cols], the group of each position, in bytes (192 · group).
 * Type arguments name a decoding, as in fit.ts: u8 affine, u16 biased, u32 levels.
 * `factor`: U by strips of two columns (2s, 2s + 1), each holding rows 0 … 2s + 1 as pairs; strip s begins at 8 · s · (s + 1) bytes.
 */
import { fitGroup } from './fit'
import { BIASED, COLUMN, KIND, LEVELS, MAX_CODE, ROWS, TABLE, TILE, VECTOR } from './layout'
import { codesAt, placesOf, valuesAt } from './levels'
import { clamp, rne } from './simd'

/** Columns of a block without fitted groups: errors of earlier blocks are taken off all its columns before it is solved. */
const BLOCK: i32 = 128
/** Errors that stay in the level-2 cache while a block's columns pass over them: 393 kB. */
const REACH: i32 = 2048

function stripOf(factor: usize, column: i32): usize {
  const strip = <usize>(column >> 1)
  return factor + ((strip * (strip + 1)) << 3)
}

/** w ← w − e_i · U_i for i from `errors` to `stop`: 16 rows of two neighbouring columns. `pairs` walks the strip beside the errors. */
function absorbPair(at: usize, errors: usize, stop: usize, pairs: usize): void {
  let a0 = v128.load(at)
  let b0 = v128.load(at, 16)
  let c0 = v128.load(at, 32)
  let d0 = v128.load(at, 48)
  let a1 = v128.load(at, 192)
  let b1 = v128.load(at, 208)
  let c1 = v128.load(at, 224)
  let d1 = v128.load(at, 240)
  while (errors < stop) {
    const k = v128.load32_splat(pairs)
    const l = v128.load32_splat(pairs, 4)
    let e = v128.load(errors)
    a0 = f32x4.sub(a0, f32x4.mul(e, k))
    a1 = f32x4.sub(a1, f32x4.mul(e, l))
    e = v128.load(errors, 16)
    b0 = f32x4.sub(b0, f32x4.mul(e, k))
    b1 = f32x4.sub(b1, f32x4.mul(e, l))
    e = v128.load(errors, 32)
    c0 = f32x4.sub(c0, f32x4.mul(e, k))
    c1 = f32x4.sub(c1, f32x4.mul(e, l))
    e = v128.load(errors, 48)
    d0 = f32x4.sub(d0, f32x4.mul(e, k))
    d1 = f32x4.sub(d1, f32x4.mul(e, l))
    errors += COLUMN
    pairs += 8
  }
  v128.store(at, a0)
  v128.store(at, b0, 16)
  v128.store(at, c0, 32)
  v128.store(at, d0, 48)
  v128.store(at, a1, 192)
  v128.store(at, b1, 208)
  v128.store(at, c1, 224)
  v128.store(at, d1, 240)
}

/** The same for one column, where a group's border or the last column leaves half a pair. */
function absorbOne(at: usize, errors: usize, stop: usize, pairs: usize): void {
  let a = v128.load(at)
  let b = v128.load(at, 16)
  let c = v128.load(at, 32)
  let d = v128.load(at, 48)
  while (errors < stop) {
    const k = v128.load32_splat(pairs)
    a = f32x4.sub(a, f32x4.mul(v128.load(errors), k))
    b = f32x4.sub(b, f32x4.mul(v128.load(errors, 16), k))
    c = f32x4.sub(c, f32x4.mul(v128.load(errors, 32), k))
    d = f32x4.sub(d, f32x4.mul(v128.load(errors, 48), k))
    errors += COLUMN
    pairs += 8
  }
  v128.store(at, a)
  v128.store(at, b, 16)
  v128.store(at, c, 32)
  v128.store(at, d, 48)
}

/** Takes the errors of positions [from, to) off `width` (1 or 2) columns at position j. */
function absorb(panel: usize, errors: usize, factor: usize, j: i32, width: i32, from: i32, to: i32): void {
  const pairs = stripOf(factor, j) + ((<usize>(j & 1)) << 2) + ((<usize>from) << 3)
  const at = panel + <usize>j * COLUMN
  const start = errors + <usize>from * COLUMN
  const stop = errors + <usize>to * COLUMN
  for (let tile: usize = 0; tile < COLUMN; tile += TILE) {
    if (width === 2) absorbPair(at + tile, start + tile, stop + tile, pairs)
    else absorbOne(at + tile, start + tile, stop + tile, pairs)
  }
}

/** Columns at position j that are taken together: 2, or 1 before a strip's border and at the end. */
function widthAt(j: i32, end: i32): i32 {
  return (j & 1) === 0 && j + 1 < end ? 2 : 1
}

/** Takes the errors of all positions before the block [start, end) off its columns. */
function absorbBefore(panel: usize, errors: usize, factor: usize, start: i32, end: i32): void {
  for (let from = 0; from < start; from += REACH) {
    const to = min(from + REACH, start)
    for (let j = start; j < end; ) {
      const width = widthAt(j, end)
      absorb(panel, errors, factor, j, width, from, to)
      j += width
    }
  }
}

// What the weights of a column are coded with.
let maxCode: v128 = i32x4.splat(0)
let table: usize = 0

function useGrid(grid: usize): void {
  maxCode = v128.load32_splat(grid, MAX_CODE)
  table = <usize>load<u32>(grid, TABLE)
}

/** Nearest codes of four rows as floats; of levels, places as integers. */
function codeOf<D>(x: v128, scale: v128, offset: v128): v128 {
  if (sizeof<D>() === 4) return placesOf(f32x4.div(x, scale), table)
  if (sizeof<D>() === 2) return clamp(rne(f32x4.div(f32x4.sub(x, offset), scale)), f32x4.splat(0), maxCode)
  return clamp(f32x4.add(rne(f32x4.div(x, scale)), offset), f32x4.splat(0), maxCode)
}

function decoded<D>(code: v128, scale: v128, offset: v128): v128 {
  if (sizeof<D>() === 4) return f32x4.mul(valuesAt(code, table), scale)
  if (sizeof<D>() === 2) return f32x4.add(f32x4.mul(code, scale), offset)
  return f32x4.mul(f32x4.sub(code, offset), scale)
}

/** Codes as they are stored, as integers of 32 bits; of integers by the bits of code + 2^23. */
function integers<D>(code: v128): v128 {
  if (sizeof<D>() === 4) return codesAt(code, table)
  return v128.xor(f32x4.add(code, f32x4.splat(8388608.0)), i32x4.splat(0x4b000000))
}

/** Four codes as bytes. */
function storeCodes<D>(at: usize, code: v128): void {
  const bits = integers<D>(code)
  v128.store32_lane(at, i8x16.shuffle(bits, bits, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12), 0)
}

/** Rounds four rows of a column and keeps e = (x − decoded) / U_jj. */
function snap<D>(x: v128, scale: usize, offset: usize, diagonal: v128, error: usize, code: usize): v128 {
  const s = v128.load(scale)
  const o = v128.load(offset)
  const q = codeOf<D>(x, s, o)
  const e = f32x4.div(f32x4.sub(x, decoded<D>(q, s, o)), diagonal)
  v128.store(error, e)
  storeCodes<D>(code, q)
  return e
}

/** Solves the block [start, end), whose columns have the errors of all positions before `start` taken off. */
function solve<D>(
  panel: usize,
  errors: usize,
  codes: usize,
  factor: usize,
  scales: usize,
  offsets: usize,
  groupAt: usize,
  start: i32,
  end: i32,
): void {
  for (let j = start; j < end; ) {
    const width = widthAt(j, end)
    absorb(panel, errors, factor, j, width, start, j)
    const group = load<u32>(groupAt + ((<usize>j) << 2))
    const at = <usize>j * COLUMN
    const diagonalAt = stripOf(factor, j) + ((<usize>j) << 3) + ((<usize>(j & 1)) << 2)
    const diagonal = v128.load32_splat(diagonalAt)
    const code = codes + <usize>j * ROWS
    if (width === 2) {
      const next = load<u32>(groupAt + ((<usize>j) << 2), 4)
      const beside = v128.load32_splat(diagonalAt, 4)
      const diagonalNext = v128.load32_splat(diagonalAt, 12)
      for (let row: usize = 0; row < COLUMN; row += VECTOR) {
        const w = panel + at + row
        const to = errors + at + row
        const c = code + (row >> 2)
        const e = snap<D>(v128.load(w), scales + group + row, offsets + group + row, diagonal, to, c)
        const x = f32x4.sub(v128.load(w, 192), f32x4.mul(e, beside))
        snap<D>(x, scales + next + row, offsets + next + row, diagonalNext, to + COLUMN, c + ROWS)
      }
    } else {
      for (let row: usize = 0; row < COLUMN; row += VECTOR) {
        const x = v128.load(panel + at + row)
        const to = errors + at + row
        snap<D>(x, scales + group + row, offsets + group + row, diagonal, to, code + (row >> 2))
      }
    }
    j += width
  }
}

/**
 * One sweep over a panel. `unit` > 0: groups are runs of `unit` positions, fitted from the compensated weights when the sweep enters them
 * (`list`, `weighting` as in fit.ts, by position); 0: all scales and offsets are there already.
 */
function sweepOf<D>(
  panel: usize,
  errors: usize,
  codes: usize,
  factor: usize,
  scales: usize,
  offsets: usize,
  groupAt: usize,
  cols: i32,
  unit: i32,
  list: usize,
  weighting: usize,
  grid: usize,
): void {
  const block = unit > 0 ? unit : BLOCK
  let group: usize = 0
  for (let start = 0; start < cols; start += block) {
    const end = min(start + block, cols)
    absorbBefore(panel, errors, factor, start, end)
    if (unit > 0) {
      const at = (<usize>start) << 2
      fitGroup(panel, list + at, weighting + at, end - start, grid, scales + group, offsets + group)
      group += COLUMN
    }
    solve<D>(panel, errors, codes, factor, scales, offsets, groupAt, start, end)
  }
}

/** `sweepOf` by the grid's decoding. */
export function sweep(
  panel: usize,
  errors: usize,
  codes: usize,
  factor: usize,
  scales: usize,
  offsets: usize,
  groupAt: usize,
  cols: i32,
  unit: i32,
  list: usize,
  weighting: usize,
  grid: usize,
): void {
  useGrid(grid)
  const kind = load<i32>(grid, KIND)
  if (kind === LEVELS)
    sweepOf<u32>(panel, errors, codes, factor, scales, offsets, groupAt, cols, unit, list, weighting, grid)
  else if (kind === BIASED)
    sweepOf<u16>(panel, errors, codes, factor, scales, offsets, groupAt, cols, unit, list, weighting, grid)
  else sweepOf<u8>(panel, errors, codes, factor, scales, offsets, groupAt, cols, unit, list, weighting, grid)
}

/** Σ e² of each row, f64 [48], in sweep order: tr(ΔW H ΔWᵀ) of that row. */
export function rowLoss(errors: usize, cols: i32, losses: usize): void {
  const end = errors + <usize>cols * COLUMN
  for (let row: usize = 0; row < COLUMN; row += VECTOR) {
    let a = f64x2.splat(0)
    let b = a
    for (let at = errors + row; at < end; at += COLUMN) {
      const e = v128.load(at)
      const low = f64x2.promote_low_f32x4(e)
      const high = f64x2.promote_low_f32x4(i64x2.shuffle(e, e, 1, 0))
      a = f64x2.add(a, f64x2.mul(low, low))
      b = f64x2.add(b, f64x2.mul(high, high))
    }
    v128.store(losses + (row << 1), a)
    v128.store(losses + (row << 1), b, 16)
  }
}

function codedAt<D>(at: usize, scale: usize, offset: usize): v128 {
  return integers<D>(codeOf<D>(v128.load(at), v128.load(scale), v128.load(offset)))
}

function roundNearestOf<D>(panel: usize, codes: usize, scales: usize, offsets: usize, groupAt: usize, cols: i32): void {
  for (let j = 0; j < cols; j++) {
    const group = load<u32>(groupAt + ((<usize>j) << 2))
    for (let tile: usize = 0; tile < COLUMN; tile += TILE) {
      const at = panel + tile
      const s = scales + group + tile
      const o = offsets + group + tile
      const a = codedAt<D>(at, s, o)
      const b = codedAt<D>(at + 16, s + 16, o + 16)
      const c = codedAt<D>(at + 32, s + 32, o + 32)
      const d = codedAt<D>(at + 48, s + 48, o + 48)
      const bytes = i8x16.narrow_i16x8_u(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d))
      v128.store(codes + (tile >> 2), bytes)
    }
    panel += COLUMN
    codes += ROWS
  }
}

/** Rounds every weight of a panel to its nearest code. */
export function roundNearest(
  panel: usize,
  codes: usize,
  scales: usize,
  offsets: usize,
  groupAt: usize,
  cols: i32,
  grid: usize,
): void {
  useGrid(grid)
  const kind = load<i32>(grid, KIND)
  if (kind === LEVELS) roundNearestOf<u32>(panel, codes, scales, offsets, groupAt, cols)
  else if (kind === BIASED) roundNearestOf<u16>(panel, codes, scales, offsets, groupAt, cols)
  else roundNearestOf<u8>(panel, codes, scales, offsets, groupAt, cols)
}

function nearestErrorsOf<D>(panel: usize, scales: usize, offsets: usize, groupAt: usize, cols: i32, to: usize): void {
  for (let j = 0; j < cols; j++) {
    const group = load<u32>(groupAt + ((<usize>j) << 2))
    for (let row: usize = 0; row < COLUMN; row += VECTOR) {
      const x = v128.load(panel + row)
      const s = v128.load(scales + group + row)
      const o = v128.load(offsets + group + row)
      v128.store(to + row, f32x4.sub(x, decoded<D>(codeOf<D>(x, s, o), s, o)))
    }
    panel += COLUMN
    to += COLUMN
  }
}

/** Every weight less what its nearest code decodes to. `to`: a panel, which may be the same. */
export function nearestErrors(
  panel: usize,
  scales: usize,
  offsets: usize,
  groupAt: usize,
  cols: i32,
  grid: usize,
  to: usize,
): void {
  useGrid(grid)
  const kind = load<i32>(grid, KIND)
  if (kind === LEVELS) nearestErrorsOf<u32>(panel, scales, offsets, groupAt, cols, to)
  else if (kind === BIASED) nearestErrorsOf<u16>(panel, scales, offsets, groupAt, cols, to)
  else nearestErrorsOf<u8>(panel, scales, offsets, groupAt, cols, to)
}
