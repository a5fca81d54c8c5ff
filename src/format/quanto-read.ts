/** Reading quanto checkpoints: quanto_qmap.json says what each linear is, its tensors must agree. */
import type { CodedLinear, Configs, LinearScheme, TensorInfo, TensorLookup, TensorSource } from '../contracts.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { e4m3Values, e5m2Values } from '../dtype/small-floats.ts'
import { QuantizeError } from '../errors.ts'
import { isObject } from '../io/is-object.ts'
import { printable } from '../io/printable.ts'
import type { Fields } from './config-fields.ts'
import { type QuantoKind, quantoMap } from './quanto-map.ts'
import { packShifts } from './quanto-packing.ts'
import { impliedGroup, shapeOf } from './quanto-shapes.ts'
import { chunkRows, unpackRowChunks } from './row-chunks.ts'
import { checkStored, damaged, groupRunsOf, none, partOf, readBytes, readFloats, roleOf } from './stored.ts'

const called = 'quanto'
const floats = ['F16', 'BF16', 'F32'] as const

/** Codes and their scales, checked against each other. */
interface Parts<T extends TensorInfo> {
  readonly data: T
  readonly scale: T
  /** Of packed codes. */
  readonly shift?: T
  /** The packed matrix; of 8 bits the weight. */
  readonly rows: number
  readonly width: number
}

type Lookup<T extends TensorInfo> = (name: string) => T | undefined

const packedParts = <T extends TensorInfo>(module: string, lookup: Lookup<T>, { bits }: QuantoKind): Parts<T> => {
  const part = (name: string) => partOf(lookup, `${module}.weight.${name}`, called)
  const [data, scale, shift] = [part('_data._data'), part('_scale'), part('_shift')]
  checkStored(scale, floats, [-1, 1], called)
  const rows = scale.shape[0]
  checkStored(shift, [...floats, 'I8', 'U8'], [rows, 1], called)
  checkStored(data, ['U8'], [chunkRows(rows, packShifts(bits)), -1], called)
  return { data, scale, shift, rows, width: data.shape[1] }
}

const byteParts = <T extends TensorInfo>(module: string, lookup: Lookup<T>, { dtype }: QuantoKind): Parts<T> => {
  const part = (name: string) => partOf(lookup, `${module}.weight.${name}`, called)
  const [data, scale] = [part('_data'), part('_scale')]
  checkStored(data, [dtype], [-1, -1], called)
  const [rows, width] = data.shape
  checkStored(scale, floats, [rows, 1], called)
  return { data, scale, rows, width }
}

const partsOf = <T extends TensorInfo>(module: string, lookup: Lookup<T>, kind: QuantoKind): Parts<T> =>
  (kind.bits === 8 ? byteParts : packedParts)(module, lookup, kind)

const configOf = (configs: Configs): Fields => {
  const config = configs['config.json']
  return isObject(config) ? config : {}
}

/** [out, in], or undefined where neither the bias nor config.json says how the rows of groups make up those of the weight. */
const weightShape = (
  module: string,
  { rows, width }: Parts<TensorInfo>,
  { bits }: QuantoKind,
  lookup: Lookup<TensorInfo>,
  configs: Configs,
): readonly [number, number] | undefined => {
  if (bits === 8) return [rows, width]
  const bias = lookup(`${module}.bias`)
  return shapeOf(module, rows, width, bits, bias?.shape[0], configOf(configs))
}

const schemeOf = (name: string, lookup: Lookup<TensorInfo>, kind: QuantoKind, configs: Configs): LinearScheme => {
  const parts = partsOf(name, lookup, kind)
  const shape = weightShape(name, parts, kind, lookup, configs)
  if (!shape)
    throw new QuantizeError(
      'unsupported',
      `${printable(name)}: quanto stores no shapes, and config.json does not say which one has ${parts.rows} groups of ${parts.width}`,
    )
  const [out, inputs] = shape
  const { grid, bits } = kind
  const group = impliedGroup(inputs, bits, grid)
  return {
    name,
    role: roleOf(name),
    out,
    in: inputs,
    dtype: parts.scale.dtype as WeightDtype,
    grid,
    bits,
    symmetric: bits === 8,
    group,
    groups: inputs / (typeof group === 'number' ? group : inputs),
    actOrder: 'none',
  }
}

/** @throws QuantizeError bad-input naming tensor or field; unsupported where a shape cannot be known, for quantized activations */
export const detectQuanto = (
  tensors: ReadonlyMap<string, TensorInfo>,
  configs: Configs,
): ReadonlyMap<string, LinearScheme> | undefined => {
  const map = quantoMap(configs)
  if (!map) return undefined
  const lookup: Lookup<TensorInfo> = name => tensors.get(name)
  return new Map([...map].map(([name, kind]) => [name, schemeOf(name, lookup, kind, configs)]))
}

const levelsOf = ({ grid }: QuantoKind): Float32Array =>
  grid === 'fp8' ? e4m3Values() : grid === 'fp8-e5m2' ? e5m2Values() : none

const readLevels = (data: TensorSource, levels: Float32Array): Uint8Array => {
  const codes = readBytes(data, called)
  if (codes.some(code => Number.isNaN(levels[code]))) throw damaged(data, 'holds an infinite value or a NaN', called)
  return codes
}

const unpackBytes = ({ data, scale, rows, width }: Parts<TensorSource>, kind: QuantoKind): CodedLinear => {
  const levels = levelsOf(kind)
  const integers = kind.grid === 'int'
  return {
    decode: integers ? 'affine' : 'levels',
    out: rows,
    in: width,
    bits: 8,
    codes: integers ? readBytes(data, called).map(byte => byte ^ 128) : readLevels(data, levels),
    scales: readFloats(scale, called),
    zeros: integers ? new Float32Array(rows).fill(128) : none,
    biases: none,
    levels,
    groupOf: new Int32Array(width),
  }
}

/** A float shift is taken off after scaling, a whole one before. */
const readShift = (shift: TensorSource): Pick<CodedLinear, 'decode' | 'zeros' | 'biases'> => {
  if (shift.dtype !== 'I8' && shift.dtype !== 'U8')
    return { decode: 'biased', zeros: none, biases: readFloats(shift, called).map(value => -value) }
  const bytes = readBytes(shift, called)
  const zeros = Float32Array.from(bytes, byte => (byte << 24) >> 24) // the loader takes either for int8
  return { decode: 'affine', zeros, biases: none }
}

/** As [out, in], or as the matrix of groups where the shape cannot be known. */
const unpackPacked = (
  parts: Parts<TensorSource>,
  { bits }: QuantoKind,
  [out, inputs]: readonly [number, number],
): CodedLinear => {
  const { data, scale, shift, rows, width } = parts
  return {
    ...readShift(shift!),
    out,
    in: inputs,
    bits,
    codes: unpackRowChunks(readBytes(data, called), packShifts(bits), bits, rows * width),
    scales: readFloats(scale, called),
    levels: none,
    groupOf: groupRunsOf(inputs, width),
  }
}

/** @throws QuantizeError bad-input naming tensor or field */
export const unpackQuanto = (module: string, tensors: TensorLookup, configs: Configs): CodedLinear => {
  const kind = quantoMap(configs)?.get(module)
  if (!kind) throw new QuantizeError('bad-input', `quanto_qmap.json names no quantized module ${printable(module)}`)
  const parts = partsOf(module, tensors, kind)
  if (kind.bits === 8) return unpackBytes(parts, kind)
  return unpackPacked(parts, kind, weightShape(module, parts, kind, tensors, configs) ?? [parts.rows, parts.width])
}
