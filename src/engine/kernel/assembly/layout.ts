/** Layout of a panel and of the records that the host writes (src/engine/kernel/layout.ts says the same for the host). */

/** Rows of a panel: three register tiles of 16. */
export const ROWS: usize = 48
/** Bytes of one column of a panel of float32. */
export const COLUMN: usize = 192
/** Bytes of a register tile: 16 rows of a column. */
export const TILE: usize = 64
/** Bytes of a vector: 4 rows of a column. */
export const VECTOR: usize = 16

// Grid record: how a group's range becomes parameters, and a weight a code (src/engine/kernel/layout.ts writes it).
/** f32: the largest code, 2^bits − 1. */
export const MAX_CODE: usize = 0
/** i32: how codes decode and parameters are found: 0 affine, 1 affine with the zero point in the middle, 2 biased, 3 levels. */
export const KIND: usize = 4
/** f32: 2^(bits − 1). */
export const MIDDLE: usize = 8
/** f32: smallest zero point that the format stores. */
export const ZERO_LOW: usize = 12
/** f32: largest zero point that the format stores. */
export const ZERO_HIGH: usize = 16
/** f32: smallest scale. */
export const SCALE_FLOOR: usize = 20
/** A narrowing (NARROWING_…): how scales are rounded. */
export const SCALE: usize = 24
/** A narrowing: how biases are rounded. */
export const BIAS: usize = 44
/** f32: scale of a group of zeros. */
export const ZERO_SCALE: usize = 64
/** f32: the level to which the largest magnitude of a group is scaled. */
export const REACH: usize = 68
/** u32: address of the table of levels (levels.ts). */
export const TABLE: usize = 72
/** i32: how many shrink factors follow; even, or 1 for none but 1. */
export const SHRINKS: usize = 76
/** f32[]: shrink factors; the first is 1. */
export const SHRINK: usize = 80

// Narrowing of a float32: src/quantize/storage.ts says what it does.
export const NARROWING_SHIFT: usize = 0
export const NARROWING_ADD: usize = 4
export const NARROWING_EVEN: usize = 8
export const NARROWING_LIMIT: usize = 12
export const NARROWING_MAGIC: usize = 16

export const SYMMETRIC: i32 = 1
export const BIASED: i32 = 2
export const LEVELS: i32 = 3
