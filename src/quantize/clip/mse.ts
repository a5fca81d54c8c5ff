import type { Clip } from './clip.ts'

/**
 * Shrink factors 1, 0.99 … 0.21, the one of least (weighted) squared error: GPTQ's `mse` option (IST-DASLab/gptq, quant.py: grid 100,
 * maxshrink 0.8), with the exponent 2 instead of 2.4, so that the weighted sum is the diagonal of the layer's output error.
 */
export const mse: Clip = { name: 'mse', shrinks: Float32Array.from({ length: 80 }, (_, i) => 1 - i / 100) }
