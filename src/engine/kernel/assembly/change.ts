/** Panels made from panels, before weights are rounded and after. `to` may be the panel itself. */
import { COLUMN, ROWS, VECTOR } from './layout'

/** Each column times its factor: `factors` f32 [cols]. */
export function scaleColumns(panel: usize, factors: usize, cols: i32, to: usize): void {
  for (let j = 0; j < cols; j++) {
    const factor = v128.load32_splat(factors + ((<usize>j) << 2))
    for (let row: usize = 0; row < COLUMN; row += VECTOR)
      v128.store(to + row, f32x4.mul(v128.load(panel + row), factor))
    panel += COLUMN
    to += COLUMN
  }
}

/** `share` of four values, rounded once. */
function shareOf(x: v128, share: v128): v128 {
  const low = f32x4.demote_f64x2_zero(f64x2.mul(f64x2.promote_low_f32x4(x), share))
  const high = f32x4.demote_f64x2_zero(f64x2.mul(f64x2.promote_low_f32x4(i64x2.shuffle(x, x, 1, 1)), share))
  return i64x2.shuffle(low, high, 0, 2)
}

/** Every weight cut to a share of the largest magnitude of its row in its group, of `unit` columns. */
export function cutGroups(panel: usize, unit: i32, groups: i32, share: f64, to: usize): void {
  const bytes = <usize>unit * COLUMN
  const shares = f64x2.splat(share)
  for (let group = 0; group < groups; group++) {
    for (let row: usize = 0; row < COLUMN; row += VECTOR) {
      const end = panel + bytes + row
      let most = f32x4.splat(0)
      for (let at = panel + row; at < end; at += COLUMN) most = f32x4.pmax(most, f32x4.abs(v128.load(at)))
      const high = shareOf(most, shares)
      const low = f32x4.neg(high)
      for (let at = panel + row, into = to + row; at < end; at += COLUMN, into += COLUMN)
        v128.store(into, f32x4.pmin(high, f32x4.pmax(low, v128.load(at))))
    }
    panel += bytes
    to += bytes
  }
}

/** → 48 rows of `cols` values, row-major. Columns lie in natural order. */
export function panelToRows(panel: usize, dst: usize, cols: i32): void {
  const line = (<usize>cols) << 2
  const whole = cols & ~3
  for (let j = 0; j < whole; j += 4) {
    const from = panel + <usize>j * COLUMN
    for (let row: usize = 0; row < ROWS; row += 4) {
      const at = from + (row << 2)
      const a = v128.load(at)
      const b = v128.load(at, 192)
      const c = v128.load(at, 384)
      const d = v128.load(at, 576)
      const low01 = i32x4.shuffle(a, b, 0, 4, 1, 5)
      const low23 = i32x4.shuffle(c, d, 0, 4, 1, 5)
      const high01 = i32x4.shuffle(a, b, 2, 6, 3, 7)
      const high23 = i32x4.shuffle(c, d, 2, 6, 3, 7)
      const to = dst + row * line + ((<usize>j) << 2)
      v128.store(to, i64x2.shuffle(low01, low23, 0, 2))
      v128.store(to + line, i64x2.shuffle(low01, low23, 1, 3))
      v128.store(to + 2 * line, i64x2.shuffle(high01, high23, 0, 2))
      v128.store(to + 3 * line, i64x2.shuffle(high01, high23, 1, 3))
    }
  }
  for (let j = whole; j < cols; j++) {
    const from = panel + <usize>j * COLUMN
    for (let row: usize = 0; row < ROWS; row++)
      store<f32>(dst + row * line + ((<usize>j) << 2), load<f32>(from + (row << 2)))
  }
}
