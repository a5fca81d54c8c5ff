/**
 * Bias correction: b′ = b + (W − Ŵ)·E[x] gives the outputs of a quantized linear the mean that they had with W
 * (Nagel et al. 2019, arXiv 1906.04721, §4.2; E[x] is measured on calibration text here).
 */

import { castSource } from '../checkpoint/cast-source.ts'
import type { TensorSource } from '../contracts.ts'
import { bytesOf } from '../dtype/bytes.ts'
import { toFloat32 } from '../dtype/convert.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'

/** ΔW·E[x], [rows]: what the weights' error takes from the mean of each output. @param delta W − Ŵ, [rows, in] @param mean E[x], [in] */
export const meanErrors = (delta: Float32Array, mean: Float32Array): Float64Array => {
  const inputs = mean.length
  return Float64Array.from({ length: delta.length / inputs }, (_, row) => {
    let sum = 0
    for (let i = 0, at = row * inputs; i < inputs; i++, at++) sum += delta[at] * mean[i]
    return sum
  })
}

/** A bias and what is added to it, [out], as float32. */
export const shiftedBias = (bias: TensorSource, shift: Float32Array): TensorSource => {
  const bytes = 4 * shift.length
  return {
    ...bias,
    dtype: 'F32',
    bytes,
    read(start = 0, end = bytes, into) {
      const values = toFloat32(bias.read(), bias.dtype).map((value, i) => value + shift[i])
      const stored = bytesOf(values).subarray(start, end)
      into?.set(stored)
      return into ?? stored
    },
  }
}

/**
 * How far a bias moves, [out]: by the shift, but for the rounding to the dtype that stores it.
 * @throws QuantizeError bad-input for a bias that is not finite, unsupported when the dtype cannot hold one that is
 */
export const changeOf = (bias: TensorSource, shift: Float32Array, dtype: WeightDtype): Float64Array => {
  const before = toFloat32(bias.read(), bias.dtype)
  const after = toFloat32(castSource(shiftedBias(bias, shift), dtype).read(), dtype)
  const change = Float64Array.from(after, (value, i) => value - before[i])
  const at = change.findIndex(value => !Number.isFinite(value))
  if (at < 0) return change
  throw new QuantizeError(
    'bad-input',
    `${printable(bias.file)}: value ${at} of tensor ${printable(bias.name)} is ${before[at]}, which --bias-correction cannot correct`,
    { lasting: true },
  )
}

export const rootMeanSquare = (values: Float64Array): number =>
  Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length)

/** What the change s adds to E‖ΔW·x‖², so that it becomes E‖ΔW·x − s‖²: ‖s‖² − 2·s·(ΔW·E[x]). */
export const changedError = (change: Float64Array, meanError: Float64Array): number =>
  change.reduce((sum, s, i) => sum + s * (s - 2 * meanError[i]), 0)
