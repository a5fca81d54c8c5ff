import type { Clip } from './clip.ts'

/** The range as it is: no weight is clipped. */
export const minmax: Clip = { name: 'minmax', shrinks: Float32Array.of(1) }
