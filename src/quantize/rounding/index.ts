import { gptq } from './gptq.ts'
import { nearest } from './nearest.ts'

export const roundings = { nearest, gptq } as const

export type RoundingName = keyof typeof roundings
