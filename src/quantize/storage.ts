import type { ScaleDtype } from '../contracts.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'

/** How a float32 is rounded to a narrower dtype by adding to its bits and cutting low ones off. */
export interface Narrowing {
  /** Low bits of a float32 that this dtype lacks. */
  readonly shift: number
  /** Added to the bits before the cut: half a unit, less one where a tie goes to the even neighbour. */
  readonly add: number
  /** Adds the last bit that stays as well: ties go to even. */
  readonly even: 0 | 1
  /** Magnitudes below it are multiples of one step: adding `magic` and taking it off again rounds to that. 0: none are. */
  readonly limit: number
  readonly magic: number
}

export interface ScaleRule extends Narrowing {
  /** Smallest scale: the smallest normal number where subnormal ones break loaders (Marlin) and flush to zero on GPUs. Smaller ones are raised to it. */
  readonly smallest: number
  /** Largest finite number. */
  readonly largest: number
}

const halfEven = (shift: number): Narrowing => ({
  shift,
  add: shift === 0 ? 0 : 2 ** (shift - 1) - 1,
  even: shift === 0 ? 0 : 1,
  limit: 0,
  magic: 0,
})

const smallestNormal = 1.1754943508222875e-38

export const scaleDtypes: Readonly<Record<ScaleDtype, ScaleRule>> = {
  F32: { ...halfEven(0), smallest: smallestNormal, largest: 3.4028234663852886e38 },
  F16: { ...halfEven(13), smallest: 1 / 16384, largest: 65504 },
  BF16: { ...halfEven(16), smallest: smallestNormal, largest: 3.3895313892515355e38 },
  F24: { ...halfEven(8), smallest: smallestNormal, largest: 3.4e38 / 127 },
  /** The exponent, one more from 1.75 on (compressed-tensors, mxfp4: of the largest magnitude; it is a power of two away from the scale). */
  E8M0: { shift: 23, add: 0x200000, even: 0, limit: 0, magic: 0, smallest: 2 ** -126, largest: 2 ** 127 },
  E4M3: { ...halfEven(20), limit: 2 ** -6, magic: 1.5 * 2 ** 14, smallest: 2 ** -9, largest: 448 },
}

/** Biases: any sign, subnormals as they are. */
export const biasDtypes: Readonly<Record<WeightDtype, Narrowing>> = {
  F32: halfEven(0),
  F16: { ...halfEven(13), limit: 2 ** -14, magic: 0.75 },
  BF16: halfEven(16),
}

const value = new Float32Array(1)
const bits = new Uint32Array(value.buffer)

/** A float32 of any sign, rounded. What is too large for the dtype stays too large. */
const narrowed = (x: number, { shift, add, even, limit, magic }: Narrowing): number => {
  if (Math.abs(x) < limit) return Math.fround(Math.fround(x + magic) - magic)
  value[0] = x
  if (shift > 0) bits[0] = (bits[0] + add + (even & (bits[0] >>> shift))) & -(2 ** shift)
  return value[0]
}

/** A positive float32 scale as its dtype stores it, never below the smallest. `checkScale` refuses what is too large. */
export const roundScale = (scale: number, dtype: ScaleDtype): number =>
  Math.max(narrowed(scale, scaleDtypes[dtype]), scaleDtypes[dtype].smallest)

/** A float32 bias as its dtype stores it, half to even. */
export const roundSigned = (bias: number, dtype: WeightDtype): number => narrowed(bias, biasDtypes[dtype])

/**
 * @throws QuantizeError unsupported for a scale that its dtype cannot hold
 */
export const checkScale = (scale: number, dtype: ScaleDtype, name: string, row: number): void => {
  if (Math.abs(scale) <= scaleDtypes[dtype].largest) return
  throw new QuantizeError(
    'unsupported',
    `${name}: row ${row} needs a scale of ${scale}, more than ${dtype} can hold (${scaleDtypes[dtype].largest}); more --bits need smaller scales`,
  )
}
