import type { ClipName } from '../../contracts.ts'
import type { Clip } from './clip.ts'
import { minmax } from './minmax.ts'
import { mse } from './mse.ts'

export const clips: Readonly<Record<ClipName, Clip>> = { minmax, mse }
