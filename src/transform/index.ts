import type { TransformName } from '../contracts.ts'
import { awq } from './awq.ts'
import { smoothquant } from './smoothquant.ts'
import type { ScaleTransform } from './transform.ts'

export const transforms: Readonly<Record<Exclude<TransformName, 'none'>, ScaleTransform>> = { awq, smoothquant }
