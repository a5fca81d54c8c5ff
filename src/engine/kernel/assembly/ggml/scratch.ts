/** Places in the scratch memory of a call, as offsets from its start. A lane holds a sub-block (or a whole block of 32), four side by side. */

/** f32x4 [32] each: values, what their errors count, and a third for the search: levels, or weight · value. */
export const VALUES: usize = 0
export const WEIGHTS: usize = 512
export const THIRD: usize = 1024
/** u8 [256]: codes of a block, or of four blocks of 32, one a weight in its order. */
export const CODES: usize = 1536
/** f32 [16] each, one a sub-block: scales and minima (negated, so not negative). MINIMA lies 64 bytes behind SCALES. */
export const SCALES: usize = 1792
export const MINIMA: usize = 1856
/** f32 [16] each: what made the codes of the search, nearest(inverse · (x − origin)); an inverse of 0 stands for codes that are all 0. */
export const INVERSES: usize = 1920
export const ORIGINS: usize = 1984
/** f32 [16]: sums of weights. */
export const SUMS: usize = 2048
/** u8 [16] each: scales and minima as they are stored. MIN_CODES lies 16 bytes behind SCALE_CODES. */
export const SCALE_CODES: usize = 2112
export const MIN_CODES: usize = 2128
/** f32x4: Σ w x l and Σ w l² of the levels l that were fitted last. */
export const SUM_XL: usize = 2144
export const SUM_L2: usize = 2160
/** f32 [512] and u8 [512]: level and code of ⌊2x⌋ = −256 … 255 in IQ4's table. */
export const LEVEL_TABLE: usize = 2176
export const CODE_TABLE: usize = 4224
export const SCRATCH_BYTES: usize = 4736
