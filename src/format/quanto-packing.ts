import type { Bits } from '../contracts.ts'
import type { Shifts } from './row-chunks.ts'

/** quanto's bytes of 2- and 4-bit codes are filled from the low end (optimum/quanto/tensor/packed.py). */
export const packShifts = (bits: Bits): Shifts => Array.from({ length: 8 / bits }, (_, chunk) => chunk * bits)
