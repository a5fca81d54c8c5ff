/** Puts chosen factors into the weights: the producer's outputs are divided, the columns behind the tap multiplied. */

import { type FloatDtype, fromFloat32, toFloat32 } from '../dtype/convert.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { isFinitePositive } from './factors.ts'
import type { Fold } from './fold.ts'
import type { ScaledCheckpoint } from './scaled-checkpoint.ts'
import { spread } from './transform.ts'

/** Values as their dtype stores them. */
const rounded = (values: Float32Array, dtype: WeightDtype): Float32Array => toFloat32(fromFloat32(values, dtype), dtype)

const valuesOf = ({ tensors }: ScaledCheckpoint, name: string): Float32Array => {
  const source = tensors.get(name)!
  return toFloat32(source.read(), source.dtype as FloatDtype)
}

/**
 * A norm's weight as it will be stored, and the factors that it really divides by: rounded to its dtype, a channel takes another factor
 * than was chosen, and the linears behind it take that one. So nothing is lost by the rounding.
 */
const dividedNorm = (
  weight: Float32Array,
  factors: Float32Array,
  dtype: WeightDtype,
): { readonly stored: Float32Array; readonly effective: Float32Array } => {
  const stored = rounded(
    weight.map((value, i) => value / factors[i]),
    dtype,
  )
  const effective = weight.map((value, i) => value / stored[i])
  for (const [i, factor] of effective.entries())
    if (!isFinitePositive(factor)) {
      stored[i] = weight[i]
      effective[i] = 1
    }
  return { stored, effective }
}

/**
 * @returns what the tap is divided by, [width]
 * @param multiplied names of the weights of all linears behind the tap
 * @param dtypeOf of a tensor in the output
 */
export const applyScales = (
  checkpoint: ScaledCheckpoint,
  fold: Pick<Fold, 'divided' | 'via' | 'channelOf'>,
  factors: Float32Array,
  multiplied: readonly string[],
  dtypeOf: (tensor: string) => WeightDtype,
): Float32Array => {
  const [weight, bias] = fold.divided
  let effective = factors
  if (fold.via === 'norm') {
    const norm = dividedNorm(valuesOf(checkpoint, weight), factors, dtypeOf(weight))
    effective = norm.effective
    checkpoint.replace(weight, norm.stored)
  } else checkpoint.multiplyRows(weight, inverse(effective))
  if (bias !== undefined) checkpoint.multiplyRows(bias, inverse(effective))
  const columns = spread(fold, effective)
  for (const tensor of multiplied) checkpoint.multiplyColumns(tensor, columns)
  return columns
}

const inverse = (factors: Float32Array): Float32Array => factors.map(factor => 1 / factor)
