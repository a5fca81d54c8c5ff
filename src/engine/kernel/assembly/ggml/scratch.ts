/** Places in the scratch memory of a call, as offsets from its start. */

/** f32 [256]: weights of the search. */
export const WEIGHTS: usize = 0
/** u8 [256]: codes of a block, one a weight. */
export const CODES: usize = 1024
/** u8 [256]: codes of a candidate. */
export const TRIAL: usize = 1280
/** f32 [16] each: scales and minima of sub-blocks, and sums of their weights. */
export const SCALES: usize = 1536
export const MINIMA: usize = 1600
export const SUMS: usize = 1664
/** u8 [16] each: scales and minima as they are stored. */
export const SCALE_CODES: usize = 1728
export const MIN_CODES: usize = 1744
export const SCRATCH_BYTES: usize = 1792
