/** The same values in another format's storage, without rounding anything: what `convert` does where the grids match. */
import type { CodedLinear, LinearScheme, QuantizedLinear, Storage } from './contracts.ts'
import { dequantize } from './dequantize.ts'
import { fromFloat32, isWeightDtype, toFloat32 } from './dtype/convert.ts'
import type { WeightDtype } from './dtype/dtype.ts'
import { decodedBlocks } from './gguf/coded.ts'
import { levelGrids } from './quantize/grid/index.ts'
import { roundScale, scaleDtypes } from './quantize/storage.ts'

const none = new Float32Array(0)

const sameValues = (a: Float32Array, b: Float32Array): boolean =>
  a.length === b.length && a.every((value, i) => value === b[i])

/** Whether a dtype holds every value exactly. */
const fits = (values: Float32Array, dtype: WeightDtype): boolean =>
  dtype === 'F32' || sameValues(toFloat32(fromFloat32(values, dtype), dtype), values)

/** Whether each is a value of the dtype. */
const scalesFit = (scales: Float32Array, { scaleDtype }: Storage): boolean => {
  if (isWeightDtype(scaleDtype)) return fits(scales, scaleDtype)
  const { largest } = scaleDtypes[scaleDtype]
  return scales.every(scale => scale <= largest && roundScale(scale, scaleDtype) === scale)
}

/** Columns of a group. */
const sizeOf = ({ group, in: inputs }: LinearScheme): number =>
  typeof group === 'number' ? group : group === 'block' ? 128 : inputs

/** Each group in pieces with the same parameters, as the scheme has them; undefined when groups are not runs of a multiple of their size. */
const regrouped = (linear: CodedLinear, scheme: LinearScheme): CodedLinear | undefined => {
  const { out, groupOf } = linear
  const { groups, actOrder } = scheme
  const size = sizeOf(scheme)
  const given = linear.scales.length / out
  if (given === groups && actOrder === 'g_idx') return linear // the layout has a place for any order
  if (given === groups && groupOf.every((group, column) => group === Math.floor(column / size))) return linear
  const of = Int32Array.from({ length: groups }, (_, group) => groupOf[group * size])
  if (!groupOf.every((group, column) => group === of[Math.floor(column / size)])) return undefined
  const spread = (values: Float32Array): Float32Array =>
    values.length === 0
      ? values
      : Float32Array.from({ length: out * groups }, (_, i) => values[Math.floor(i / groups) * given + of[i % groups]])
  return {
    ...linear,
    scales: spread(linear.scales),
    zeros: spread(linear.zeros),
    biases: spread(linear.biases),
    groupOf: groupOf.map((_, column) => Math.floor(column / size)),
  }
}

/** Integer zero points of q · s + b = (q − z) · s; a group of zeros, whose scale is 0, has the one in the middle. */
const toAffine = (linear: CodedLinear): CodedLinear => {
  const { decode, bits, scales, biases } = linear
  if (decode !== 'biased') return linear
  return {
    ...linear,
    decode: 'affine',
    zeros: biases.map((bias, i) => (scales[i] === 0 ? 2 ** (bits - 1) : Math.round(-bias / scales[i]) + 0)),
    biases: none,
  }
}

const toBiased = (linear: CodedLinear): CodedLinear => {
  const { decode, scales, zeros } = linear
  if (decode !== 'affine') return linear
  return { ...linear, decode: 'biased', zeros: none, biases: zeros.map((zero, i) => 0 - zero * scales[i]) }
}

/** The zero point in the middle of the codes, which symmetric layouts do not store. */
const isCentred = ({ zeros, bits }: CodedLinear): boolean => zeros.every(zero => zero === 2 ** (bits - 1))

/** Whether its table is that of the grid, for all codes that it uses. */
const hasLevels = ({ codes, levels }: CodedLinear, { grid }: LinearScheme): boolean => {
  if (grid === 'int') return false
  const expected = levelGrids[grid].levels
  const differs = [...levels.keys()].filter(code => levels[code] !== expected[code])
  return differs.length === 0 || !codes.some(code => differs.includes(code))
}

const parametersFit = (linear: CodedLinear, scheme: LinearScheme, storage: Storage): boolean => {
  const { symmetric } = scheme
  const { decode, zeros, biases } = linear
  if (decode === 'biased') return fits(biases, storage.biasDtype!)
  if (decode === 'levels') return hasLevels(linear, scheme)
  if (symmetric && !isCentred(linear)) return false
  if (storage.zeroDtype) return fits(zeros, storage.zeroDtype)
  const [low, high] = storage.zeroRange!
  return zeros.every(zero => Number.isInteger(zero) && zero >= low && zero <= high)
}

/** The stored scale that the global one divides: the division was rounded, so that the product is only near it. */
const storedUnder = (scale: number, globalScale: number, { scaleDtype }: Storage): number =>
  roundScale(Math.fround(scale * globalScale), scaleDtype)

/** Whether the second level of scales is the one that the storage asks for. */
const secondFits = ({ scales, globalScale, nested }: CodedLinear, storage: Storage): boolean => {
  if (storage.second === 'nested') return nested !== undefined
  if (storage.second === 'global')
    return (
      globalScale !== undefined &&
      scales.every(scale => Math.fround(storedUnder(scale, globalScale, storage) / globalScale) === scale)
    )
  return scalesFit(scales, storage)
}

/** The same codes in the decoding and the groups of the target; undefined where it has neither. */
const recast = (stored: QuantizedLinear, scheme: LinearScheme, storage: Storage): CodedLinear | undefined => {
  const linear = stored.decode === 'blocks' ? decodedBlocks(stored) : stored
  if (linear.decode === 'dense' || linear.bits !== scheme.bits) return undefined
  if (linear.out !== scheme.out || linear.in !== scheme.in) return undefined // blocks over the flattened weight
  const converted =
    storage.decode === 'affine' ? toAffine(linear) : storage.decode === 'biased' ? toBiased(linear) : linear
  return converted.decode === storage.decode ? regrouped(converted, scheme) : undefined
}

/**
 * @param scheme of the target
 * @returns the linear in the target's storage, its decoded values those of `linear` to the bit; undefined where it cannot hold them
 */
export const repack = (linear: QuantizedLinear, scheme: LinearScheme, storage: Storage): CodedLinear | undefined => {
  const result = recast(linear, scheme, storage)
  if (!result || !parametersFit(result, scheme, storage) || !secondFits(result, storage)) return undefined
  return sameValues(dequantize(result), dequantize(linear)) ? result : undefined
}

/**
 * As `repack`, with scales and biases rounded to the target's dtypes: the codes are those of `linear`, which costs less than rounding the
 * decoded weights again. undefined where they have no such place; a second level of scales is not made.
 */
export const repackNear = (
  linear: QuantizedLinear,
  scheme: LinearScheme,
  storage: Storage,
): CodedLinear | undefined => {
  const result = storage.second ? undefined : recast(linear, scheme, storage)
  if (!result || linear.decode !== storage.decode) return undefined
  const { scaleDtype, biasDtype } = storage
  const near: CodedLinear = {
    ...result,
    scales: result.scales.map(scale => (scale > 0 ? roundScale(scale, scaleDtype) : scale)),
    biases: biasDtype ? toFloat32(fromFloat32(result.biases, biasDtype), biasDtype) : result.biases,
  }
  return parametersFit(near, scheme, storage) && scalesFit(near.scales, storage) ? near : undefined
}
