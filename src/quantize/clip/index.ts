import type { ClipName } from '../../contracts.ts'
import type { Clip } from './clip.ts'
import { minmax } from './minmax.ts'
import { mse } from './mse.ts'

/** `awq` fits the range of the weights that its search has clipped (clip-search.ts). */
export const clips: Readonly<Record<ClipName, Clip>> = { minmax, mse, awq: { ...minmax, name: 'awq' } }
