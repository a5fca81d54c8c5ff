/** Layout of a panel and of the records that the host writes (src/engine/kernel/layout.ts says the same for the host). */

/** Rows of a panel: three register tiles of 16. */
export const ROWS: usize = 48
/** Bytes of one column of a panel of float32. */
export const COLUMN: usize = 192
/** Bytes of a register tile: 16 rows of a column. */
export const TILE: usize = 64
/** Bytes of a vector: 4 rows of a column. */
export const VECTOR: usize = 16

// Grid record: how a group's range becomes (scale, zero).
/** f32: the largest code, 2^bits − 1. */
export const MAX_CODE: usize = 0
/** i32: 1 for a zero point fixed at the middle. */
export const SYMMETRIC: usize = 4
/** f32: 2^(bits − 1). */
export const MIDDLE: usize = 8
/** f32: smallest zero point that the format stores. */
export const ZERO_LOW: usize = 12
/** f32: largest zero point that the format stores. */
export const ZERO_HIGH: usize = 16
/** i32: low bits of a float32 that the scale's dtype lacks (13 for F16, 16 for BF16, 0 for F32). */
export const SCALE_SHIFT: usize = 20
/** f32: smallest normal number of the scale's dtype. */
export const SCALE_FLOOR: usize = 24
/** i32: how many shrink factors follow; even, or 1 for none but 1. */
export const SHRINKS: usize = 28
/** f32[]: shrink factors; the first is 1. */
export const SHRINK: usize = 32
