import type { Bits, Storage, UniformGrid } from '../../contracts.ts'
import { clamp, roundHalfEven } from '../numeric.ts'
import { roundScale } from '../storage.ts'

/**
 * Unsigned codes 0 … 2^bits − 1, w = (code − zero) · scale. The range always holds 0, so that a zero weight stays zero.
 * The rules are GPTQ's (IST-DASLab/gptq, quant.py), with the scale rounded to its storage before codes are chosen.
 */
export const uniformGrid = (bits: Bits, symmetric: boolean): UniformGrid => ({
  kind: 'uniform',
  name: 'int',
  bits,
  symmetric,
})

export const maxCodeOf = ({ bits }: Pick<UniformGrid, 'bits'>): number => (1 << bits) - 1

/** Scale and zero point of one group. */
export interface Affine {
  readonly scale: number
  readonly zero: number
}

const symmetricParameters = (low: number, high: number, grid: UniformGrid, { scaleDtype }: Storage): Affine => {
  const zero = 1 << (grid.bits - 1)
  const largest = Math.max(high, -low)
  if (largest === 0) return { scale: 1, zero }
  return { scale: roundScale(Math.fround(largest / (maxCodeOf(grid) / 2)), scaleDtype), zero }
}

const asymmetricParameters = (low: number, high: number, grid: UniformGrid, storage: Storage): Affine => {
  const maxCode = maxCodeOf(grid)
  const [zeroLow, zeroHigh] = storage.zeroRange!
  const span = Math.fround(high - low)
  if (span === 0) return { scale: 1, zero: clamp(0, zeroLow, zeroHigh) }
  const scale = roundScale(Math.fround(span / maxCode), storage.scaleDtype)
  const zero = roundHalfEven(Math.fround(-low / scale))
  // A zero point that the format cannot store moves up and leaves fewer codes for the positive side: that side decides the scale.
  if (zero < zeroLow)
    return { scale: roundScale(Math.fround(high / (maxCode - zeroLow)), storage.scaleDtype), zero: zeroLow }
  return { scale, zero: clamp(zero, zeroLow, zeroHigh) }
}

/**
 * Parameters for weights in [low, high], low ≤ 0 ≤ high. Symmetric: scale = 2 · absmax / maxCode. Asymmetric: scale = (high − low) / maxCode,
 * zero = rne(−low / scale) within the storage's range. A group of zeros has scale 1. Every operation is rounded to float32.
 */
export const rangeParameters = (low: number, high: number, grid: UniformGrid, storage: Storage): Affine =>
  (grid.symmetric ? symmetricParameters : asymmetricParameters)(low, high, grid, storage)

/** The nearest code: clamp(rne(w / scale) + zero, 0, maxCode). */
export const encode = (weight: number, { scale, zero }: Affine, maxCode: number): number =>
  clamp(roundHalfEven(Math.fround(weight / scale)) + zero, 0, maxCode)

export const decode = (code: number, { scale, zero }: Affine): number => Math.fround((code - zero) * scale)
