import type { Storage } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'

export interface ScaleDtype {
  /** Low bits of a float32 that this dtype lacks. */
  readonly shift: number
  /** Smallest normal number. Smaller scales are raised to it: subnormal ones break loaders (Marlin), and flush to zero on GPUs. */
  readonly smallest: number
  /** Largest finite number. */
  readonly largest: number
}

export const scaleDtypes: Readonly<Record<Storage['scaleDtype'], ScaleDtype>> = {
  E8M0: { shift: 23, smallest: 2 ** -127, largest: 2 ** 127 },
  E4M3: { shift: 20, smallest: 2 ** -9, largest: 448 },
  F16: { shift: 13, smallest: 1 / 16384, largest: 65504 },
  BF16: { shift: 16, smallest: 1.1754943508222875e-38, largest: 3.3895313892515355e38 },
  F32: { shift: 0, smallest: 1.1754943508222875e-38, largest: 3.4028234663852886e38 },
}

const value = new Float32Array(1)
const bits = new Uint32Array(value.buffer)

/**
 * A positive float32 scale as its dtype stores it: half to even, never below the smallest normal number. What is too large for the dtype
 * stays too large (`checkScale` refuses it).
 */
export const roundScale = (scale: number, dtype: Storage['scaleDtype']): number => {
  const { shift, smallest } = scaleDtypes[dtype]
  value[0] = scale
  if (shift > 0) {
    const unit = 1 << shift
    bits[0] = (bits[0] + unit / 2 - 1 + ((bits[0] >>> shift) & 1)) & -unit
  }
  return Math.max(value[0], smallest)
}

/**
 * @throws QuantizeError unsupported for a scale that its dtype cannot hold
 */
export const checkScale = (scale: number, dtype: Storage['scaleDtype'], name: string, row: number): void => {
  if (scale <= scaleDtypes[dtype].largest) return
  throw new QuantizeError(
    'unsupported',
    `${name}: row ${row} needs a scale of ${scale}, more than ${dtype} can hold (${scaleDtypes[dtype].largest}); more --bits need smaller scales`,
  )
}
