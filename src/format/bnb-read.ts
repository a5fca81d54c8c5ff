/** Reading bitsandbytes checkpoints. The tensors say how a linear is stored; the config need not agree, as in the package itself. */
import type { CodedLinear, Configs, LinearScheme, TensorInfo, TensorLookup, TensorSource } from '../contracts.ts'
import { dtypeBits } from '../dtype/dtype.ts'
import { dynamicMap } from '../dtype/dynamic-map.ts'
import { bnbFp4Levels, nf4Levels } from '../dtype/small-floats.ts'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'
import { type DeclaredBnb, declaredBnb } from './bnb-config.ts'
import { type QuantState, readQuantState } from './bnb-state.ts'
import { unpackHighFirst } from './nibbles.ts'
import {
  checkedPart,
  checkStored,
  damaged,
  groupRunsOf,
  none,
  partOf,
  readBytes,
  readFloats,
  roleOf,
} from './stored.ts'

const called = 'bitsandbytes'
export const nestedBlock = 256

export const tableOf = (type: QuantState['type']): Float32Array => (type === 'nf4' ? nf4Levels : bnbFp4Levels)

type Lookup<T> = (name: string) => T | undefined

/** The state of a 4-bit weight, whichever type it is of; undefined where there is none. */
const stateOf = <T>(name: string, lookup: Lookup<T>): T | undefined =>
  lookup(`${name}.weight.quant_state.bitsandbytes__nf4`) ?? lookup(`${name}.weight.quant_state.bitsandbytes__fp4`)

const isFourBit = (name: string, lookup: Lookup<TensorInfo>): boolean =>
  stateOf(name, lookup) !== undefined || lookup(`${name}.weight.absmax`) !== undefined

const int8Parts = <T extends TensorInfo>(name: string, lookup: Lookup<T>) => {
  const weight = checkedPart(lookup, `${name}.weight`, ['I8'], [-1, -1], called)
  const scb = checkedPart(lookup, `${name}.SCB`, ['F32'], [weight.shape[0]], called)
  const format = lookup(`${name}.weight_format`)
  if (format) checkStored(format, ['U8'], [], called)
  return { weight, scb, format }
}

/** What `bnb_4bit_quant_storage` may call the bytes of codes. */
const packedDtypes = ['U8', 'I8', 'F16', 'BF16', 'F32'] as const

const fourBitParts = <T extends TensorInfo>(name: string, lookup: Lookup<T>, { shape, block, offset }: QuantState) => {
  const count = shape[0] * shape[1]
  const blocks = Math.ceil(count / block)
  const weight = partOf(lookup, `${name}.weight`, called)
  checkStored(weight, packedDtypes, [Math.ceil((count * 4) / Math.max(8, dtypeBits[weight.dtype])), 1], called)
  const absmax = checkedPart(lookup, `${name}.weight.absmax`, [offset === undefined ? 'F32' : 'U8'], [blocks], called)
  return { count, blocks, weight, absmax }
}

const schemeOfInt8 = (
  name: string,
  { shape: [out, inputs] }: TensorInfo,
  { dtype, threshold }: DeclaredBnb,
): LinearScheme => ({
  name,
  role: roleOf(name),
  ...{ out, in: inputs, dtype, grid: 'int', bits: 8, symmetric: true, group: 'channel', groups: 1, actOrder: 'none' },
  activations: { grid: 'int8', symmetric: true, granularity: 'token', dynamic: true, outliers: threshold },
})

const schemeOfFourBit = (name: string, { type, block, dtype, shape: [out, inputs] }: QuantState): LinearScheme => ({
  name,
  role: roleOf(name),
  ...{ out, in: inputs, dtype, grid: type === 'nf4' ? 'nf4' : 'bnb-fp4', bits: 4, symmetric: true, group: block },
  groups: Math.ceil(inputs / block),
  actOrder: 'none',
})

/** The shape of a 4-bit weight stands in its state: that one is read, no other tensor is. */
const schemeOf = (name: string, lookup: TensorLookup, declared: DeclaredBnb): LinearScheme => {
  if (!isFourBit(name, lookup)) return schemeOfInt8(name, int8Parts(name, lookup).weight, declared)
  const state = readQuantState(statePart(name, lookup))
  fourBitParts(name, lookup, state)
  return schemeOfFourBit(name, state)
}

const statePart = (name: string, lookup: TensorLookup): TensorSource =>
  stateOf(name, lookup) ?? partOf(lookup, `${name}.weight.quant_state.bitsandbytes__nf4`, called)

const marks = /^(.*)\.(?:SCB|weight\.absmax|weight\.quant_state\.bitsandbytes__(?:nf4|fp4))$/

const moduleOf = ({ name, dtype }: TensorInfo): string | undefined =>
  dtype === 'I8' && name.endsWith('.weight') ? name.slice(0, -'.weight'.length) : marks.exec(name)?.[1]

/** @throws QuantizeError as Format.detect */
export const detectBnb = (
  tensors: ReadonlyMap<string, TensorSource>,
  configs: Configs,
  double: boolean,
): ReadonlyMap<string, LinearScheme> | undefined => {
  const declared = declaredBnb(configs)
  if (!declared || double !== [...tensors.keys()].some(name => name.endsWith('.weight.nested_absmax'))) return undefined
  const names = new Set([...tensors.values()].flatMap(tensor => moduleOf(tensor) ?? []))
  return new Map([...names].map(name => [name, schemeOf(name, part => tensors.get(part), declared)]))
}

const unpackInt8 = (name: string, tensors: TensorLookup): CodedLinear => {
  const { weight, scb, format } = int8Parts(name, tensors)
  const [out, inputs] = weight.shape
  if (format && readBytes(format, called)[0] !== 0)
    throw new QuantizeError(
      'unsupported',
      `${printable(format.name)}: only rows can be read, not the tiles of old GPUs`,
    )
  return {
    decode: 'affine',
    out,
    in: inputs,
    bits: 8,
    codes: readBytes(weight, called).map(byte => byte ^ 128),
    scales: readFloats(scb, called).map(absmax => absmax / 127),
    zeros: new Float32Array(out).fill(128),
    biases: none,
    levels: none,
    groupOf: new Int32Array(inputs),
  }
}

/** The package computes with its own table. @throws QuantizeError unsupported for another in the file */
const levelsOf = (name: string, tensors: TensorLookup, { type }: QuantState): Float32Array => {
  const map = checkedPart(tensors, `${name}.weight.quant_map`, ['F32'], [16], called)
  const table = tableOf(type)
  if (readFloats(map, called).every((value, code) => Math.abs(value - table[code]) <= 1e-6)) return table
  throw new QuantizeError('unsupported', `${printable(map.name)} is another table than that of ${type}`)
}

const ownMap = dynamicMap()

/** Scales under double quantization. A map of another rounding than the package's gives its scales, but no second level to keep. */
const nestedScales = (name: string, tensors: TensorLookup, absmax: TensorSource, offset: number) => {
  const codes = readBytes(absmax, called)
  const shape = [Math.ceil(codes.length / nestedBlock)]
  const largest = readFloats(checkedPart(tensors, `${name}.weight.nested_absmax`, ['F32'], shape, called), called)
  const map = readFloats(checkedPart(tensors, `${name}.weight.nested_quant_map`, ['F32'], [256], called), called)
  const scales = Float32Array.from(
    codes,
    (code, i) => Math.fround(map[code] * largest[Math.floor(i / nestedBlock)]) + offset,
  )
  if (!scales.every(Number.isFinite)) throw damaged(absmax, 'stands for an infinite scale', called)
  return map.every((value, i) => value === ownMap[i])
    ? { scales, nested: { codes, absmax: largest, offset } }
    : { scales }
}

const filledTo = (codes: Uint8Array, length: number): Uint8Array => {
  if (codes.length === length) return codes
  const filled = new Uint8Array(length)
  filled.set(codes)
  return filled
}

/**
 * [out, in] where blocks do not cross rows; else the matrix of blocks, [blocks, block], whose last one may be longer than what is stored:
 * the weights are the first out · in values.
 */
const unpackFourBit = (name: string, tensors: TensorLookup): CodedLinear => {
  const state = readQuantState(statePart(name, tensors))
  const { count, blocks, weight, absmax } = fourBitParts(name, tensors, state)
  const { block, shape, offset } = state
  const [out, inputs] = shape[1] % block === 0 ? shape : [blocks, block]
  return {
    decode: 'levels',
    out,
    in: inputs,
    bits: 4,
    codes: filledTo(unpackHighFirst(readBytes(weight, called), count), out * inputs),
    ...(offset === undefined ? { scales: readFloats(absmax, called) } : nestedScales(name, tensors, absmax, offset)),
    zeros: none,
    biases: none,
    levels: levelsOf(name, tensors, state),
    groupOf: groupRunsOf(inputs, block),
  }
}

/** @throws QuantizeError as Format.unpack */
export const unpackBnb = (name: string, tensors: TensorLookup): CodedLinear =>
  isFourBit(name, tensors) ? unpackFourBit(name, tensors) : unpackInt8(name, tensors)
