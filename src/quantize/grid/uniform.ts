import type { Bits, Storage, UniformGrid } from '../../contracts.ts'
import { clamp, roundHalfEven } from '../numeric.ts'
import { roundScale, roundSigned } from '../storage.ts'
import type { Coder, Parameters, Range } from './coder.ts'

/** Unsigned codes 0 … 2^bits − 1. */
export const uniformGrid = (bits: Bits, symmetric: boolean): UniformGrid => ({
  kind: 'uniform',
  name: 'int',
  bits,
  symmetric,
})

export const maxCodeOf = ({ bits }: Pick<UniformGrid, 'bits'>): number => (1 << bits) - 1

/** Scale = 2 · absmax / maxCode, zero point in the middle (IST-DASLab/gptq, quant.py), the scale rounded to its storage before codes are chosen. */
const symmetricParameters = (
  { low, high }: Range,
  grid: UniformGrid,
  { scaleDtype }: Storage,
  zeroScale: number,
): Parameters => {
  const offset = 1 << (grid.bits - 1)
  const largest = Math.max(high, -low)
  if (largest === 0) return { scale: zeroScale, offset }
  return { scale: roundScale(Math.fround(largest / (maxCodeOf(grid) / 2)), scaleDtype), offset }
}

/** Scale = (high − low) / maxCode, zero point = rne(−low / scale) within the storage's range (ibid.). */
const asymmetricParameters = ({ low, high }: Range, grid: UniformGrid, storage: Storage): Parameters => {
  const maxCode = maxCodeOf(grid)
  const [zeroLow, zeroHigh] = storage.zeroRange!
  const span = Math.fround(high - low)
  if (span === 0) return { scale: 1, offset: clamp(0, zeroLow, zeroHigh) }
  const scale = roundScale(Math.fround(span / maxCode), storage.scaleDtype)
  const zero = roundHalfEven(Math.fround(-low / scale))
  // A zero point that the format cannot store moves up and leaves fewer codes for the positive side: that side decides the scale.
  if (zero < zeroLow)
    return { scale: roundScale(Math.fround(high / (maxCode - zeroLow)), storage.scaleDtype), offset: zeroLow }
  return { scale, offset: clamp(zero, zeroLow, zeroHigh) }
}

/** w = (code − zero) · scale, code = clamp(rne(w / scale) + zero, 0, maxCode). The range always holds 0, so that a zero weight stays zero. */
export const affineCoder = (grid: UniformGrid, storage: Storage, zeroScale: number): Coder => {
  const maxCode = maxCodeOf(grid)
  const parametersOf = grid.symmetric ? symmetricParameters : asymmetricParameters
  return {
    aroundZero: true,
    parameters: range => parametersOf(range, grid, storage, zeroScale),
    encode: (weight, { scale, offset }) => clamp(roundHalfEven(Math.fround(weight / scale)) + offset, 0, maxCode),
    decode: (code, { scale, offset }) => Math.fround((code - offset) * scale),
    residual(weight, { offset }, inverse) {
      const y = Math.fround(weight * inverse)
      return Math.fround(y - clamp(roundHalfEven(y), -offset, maxCode - offset))
    },
  }
}

/** The smallest step: a group of one value has no span. */
const leastStep = Math.fround(1e-7)

/**
 * w = code · scale + bias, by MLX's rule (mlx/ops.cpp, affine_quantize): the end of the range that is farther from 0 is exact, the scale is
 * stretched so that 0 lies on a code, and is negative where that end is the high one.
 */
export const biasedCoder = (grid: UniformGrid, { scaleDtype, biasDtype }: Storage): Coder => {
  const maxCode = maxCodeOf(grid)
  return {
    aroundZero: false,
    parameters({ low, high }) {
      const step = Math.max(Math.fround(Math.fround(high - low) / maxCode), leastStep)
      const fromLow = Math.abs(low) > Math.abs(high)
      const edge = fromLow ? low : high
      const codes = roundHalfEven(Math.fround(edge / (fromLow ? step : -step)))
      const scale = codes === 0 ? (fromLow ? step : -step) : Math.fround(edge / codes)
      return {
        scale: scale < 0 ? -roundScale(-scale, scaleDtype) : roundScale(scale, scaleDtype),
        offset: codes === 0 ? 0 : roundSigned(edge, biasDtype!),
      }
    },
    encode: (weight, { scale, offset }) =>
      clamp(roundHalfEven(Math.fround(Math.fround(weight - offset) / scale)), 0, maxCode),
    decode: (code, { scale, offset }) => Math.fround(Math.fround(code * scale) + offset),
    residual(weight, { offset }, inverse) {
      const y = Math.fround(Math.fround(weight - offset) * inverse)
      return Math.fround(y - clamp(roundHalfEven(y), 0, maxCode))
    },
  }
}
