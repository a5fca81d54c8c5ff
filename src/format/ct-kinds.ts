/**
 * How compressed-tensors stores a linear, by kind (compressed_tensors/compressors; formats of its config). Codes of integers are signed there:
 * ours minus 2^(bits − 1), and so are zero points.
 */

import type {
  CodedLinear,
  LinearScheme,
  Storage,
  StoredTensor,
  TensorInfo,
  TensorLookup,
  TensorSource,
} from '../contracts.ts'
import { bytesOf } from '../dtype/bytes.ts'
import { e2m1Values, e4m3Byte, e4m3Values, e8m0Byte, e8m0Value } from '../dtype/small-floats.ts'
import { packLines, unpackLines, wordsFor } from './bits.ts'
import { packLowFirst, unpackLowFirst } from './nibbles.ts'
import {
  checkedPart,
  damaged,
  floatBytes,
  groupRunsOf,
  none,
  readBytes,
  readFloats,
  readWords,
  tensorInfo,
  withData,
} from './stored.ts'
import { transpose } from './transpose.ts'

const called = 'compressed-tensors'

/** The name that the config has for it. */
export type Kind =
  | 'pack-quantized'
  | 'int-quantized'
  | 'float-quantized'
  | 'nvfp4-pack-quantized'
  | 'mxfp4-pack-quantized'
  | 'mxfp8-quantized'

export const kindOf = ({ grid, activations }: Pick<LinearScheme, 'grid' | 'activations'>): Kind => {
  if (grid === 'fp8') return 'float-quantized'
  if (grid === 'nvfp4') return 'nvfp4-pack-quantized'
  if (grid === 'mxfp4') return 'mxfp4-pack-quantized'
  if (grid === 'mxfp8') return 'mxfp8-quantized'
  return activations ? 'int-quantized' : 'pack-quantized'
}

/** Shape of the scales. */
const scaleShape = ({ out, groups, group }: Pick<LinearScheme, 'out' | 'groups' | 'group'>): readonly number[] => {
  if (group === 'tensor') return [1]
  return group === 'block' ? [Math.ceil(out / 128), groups] : [out, groups]
}

/** Scales [out, G] → as they are stored: blocks and tensors once. */
const storedScales = (scheme: LinearScheme, scales: Float32Array): Float32Array => {
  const { out, groups, group } = scheme
  if (group === 'tensor') return scales.slice(0, 1)
  if (group !== 'block') return scales
  return Float32Array.from(
    { length: Math.ceil(out / 128) * groups },
    (_, i) => scales[Math.floor(i / groups) * 128 * groups + (i % groups)],
  )
}

/** The inverse: a scale for each row and group. */
const spreadScales = (scales: Float32Array, out: number, groups: number, rows: number): Float32Array =>
  Float32Array.from({ length: out * groups }, (_, i) =>
    scales.length === 1 ? scales[0] : scales[Math.floor(Math.floor(i / groups) / rows) * groups + (i % groups)],
  )

interface Codec {
  storage(scheme: LinearScheme): Storage
  layout(scheme: LinearScheme): readonly TensorInfo[]
  data(scheme: LinearScheme, linear: CodedLinear): readonly Uint8Array[]
  /** @param scheme as `detect` found it */
  unpack(scheme: LinearScheme, tensors: TensorLookup): CodedLinear
}

const packed: Codec = {
  storage: ({ bits, dtype }) => ({ decode: 'affine', scaleDtype: dtype, zeroRange: [0, 2 ** bits - 1] }),
  layout: ({ name, out, in: inputs, bits, dtype, groups, symmetric, actOrder }) => [
    tensorInfo(`${name}.weight_packed`, 'I32', [out, wordsFor(inputs, bits)]),
    tensorInfo(`${name}.weight_scale`, dtype, [out, groups]),
    tensorInfo(`${name}.weight_shape`, 'I64', [2]),
    ...(symmetric ? [] : [tensorInfo(`${name}.weight_zero_point`, 'I32', [wordsFor(out, bits), groups])]),
    ...(actOrder === 'g_idx' && groups > 1 ? [tensorInfo(`${name}.weight_g_idx`, 'I32', [inputs])] : []),
  ],
  data({ out, in: inputs, bits, dtype, groups, symmetric, actOrder }, { codes, scales, zeros, groupOf }) {
    const byGroup = transpose(Uint8Array.from(zeros), out, groups, new Uint8Array(zeros.length))
    return [
      bytesOf(packLines(codes, out, inputs, bits, false)),
      floatBytes(scales, dtype),
      bytesOf(BigInt64Array.of(BigInt(out), BigInt(inputs))),
      ...(symmetric ? [] : [bytesOf(packLines(byGroup, groups, out, bits, true))]),
      ...(actOrder === 'g_idx' && groups > 1 ? [bytesOf(groupOf.slice())] : []),
    ]
  },
  unpack({ name, out, in: inputs, bits, groups, group, symmetric, actOrder }, tensors) {
    const words = checkedPart(tensors, `${name}.weight_packed`, ['I32'], [out, wordsFor(inputs, bits)], called)
    return {
      ...integers(out, inputs, bits),
      codes: unpackLines(readWords(words, called), out, inputs, bits, false),
      scales: readScales(name, tensors, [out, groups]),
      zeros: symmetric
        ? new Float32Array(out * groups).fill(2 ** (bits - 1))
        : readZeros(name, tensors, out, groups, bits),
      groupOf:
        actOrder === 'g_idx' ? readGroups(name, tensors, inputs, groups) : groupRunsOf(inputs, sizeOf(group, inputs)),
    }
  },
}

const sizeOf = (group: LinearScheme['group'], inputs: number): number =>
  typeof group === 'number' ? group : group === 'block' ? 128 : inputs

const integers = (out: number, inputs: number, bits: LinearScheme['bits']) =>
  ({ decode: 'affine', out, in: inputs, bits, biases: none, levels: none }) as const

const readScales = (name: string, tensors: TensorLookup, shape: readonly number[]): Float32Array =>
  readFloats(checkedPart(tensors, `${name}.weight_scale`, ['F32', 'F16', 'BF16'], shape, called), called)

const readZeros = (
  name: string,
  tensors: TensorLookup,
  out: number,
  groups: number,
  bits: LinearScheme['bits'],
): Float32Array => {
  const zeros = checkedPart(tensors, `${name}.weight_zero_point`, ['I32'], [wordsFor(out, bits), groups], called)
  const byGroup = unpackLines(readWords(zeros, called), groups, out, bits, true)
  return Float32Array.from(transpose(byGroup, groups, out, new Uint8Array(byGroup.length)))
}

const readGroups = (name: string, tensors: TensorLookup, inputs: number, groups: number): Int32Array => {
  const tensor = checkedPart(tensors, `${name}.weight_g_idx`, ['I32'], [inputs], called)
  const groupOf = new Int32Array(readWords(tensor, called))
  const wrong = groupOf.findIndex(group => group < 0 || group >= groups)
  if (wrong >= 0) throw damaged(tensor, `says group ${groupOf[wrong]} for input ${wrong}, of ${groups} groups`, called)
  return groupOf
}

/** Static scales of what the linear reads. */
const inputLayout = ({ name, activations, dtype }: LinearScheme): readonly TensorInfo[] =>
  activations && !activations.dynamic
    ? [
        tensorInfo(`${name}.input_scale`, dtype, [1]),
        ...(activations.symmetric ? [] : [tensorInfo(`${name}.input_zero_point`, 'I8', [1])]),
      ]
    : []

const inputData = ({ activations, dtype }: LinearScheme): readonly Uint8Array[] =>
  activations && !activations.dynamic
    ? [
        floatBytes(Float32Array.of(activations.scale!), dtype),
        ...(activations.symmetric ? [] : [bytesOf(Int8Array.of(activations.zero ?? 0))]),
      ]
    : []

const int8: Codec = {
  storage: ({ dtype }) => ({ decode: 'affine', scaleDtype: dtype, zeroRange: [128, 128] }),
  layout: scheme => [
    tensorInfo(`${scheme.name}.weight`, 'I8', [scheme.out, scheme.in]),
    tensorInfo(`${scheme.name}.weight_scale`, scheme.dtype, scaleShape(scheme)),
    ...inputLayout(scheme),
  ],
  data: (scheme, { codes, scales }) => [
    codes.map(code => code ^ 128),
    floatBytes(storedScales(scheme, scales), scheme.dtype),
    ...inputData(scheme),
  ],
  unpack(scheme, tensors) {
    const { name, out, in: inputs } = scheme
    const weight = checkedPart(tensors, `${name}.weight`, ['I8'], [out, inputs], called)
    return {
      ...integers(out, inputs, 8),
      codes: readBytes(weight, called).map(byte => byte ^ 128),
      scales: spreadScales(readScales(name, tensors, scaleShape(scheme)), out, 1, 1),
      zeros: new Float32Array(out).fill(128),
      groupOf: new Int32Array(inputs),
    }
  },
}

const e4m3 = e4m3Values()
const e2m1 = e2m1Values()

/** FP8 codes. @throws QuantizeError bad-input for a NaN among them */
const readFp8 = (weight: TensorSource): Uint8Array => {
  const codes = readBytes(weight, called)
  const broken = codes.findIndex(code => (code & 127) === 127)
  if (broken >= 0) throw damaged(weight, `holds a NaN at element ${broken}`, called)
  return codes
}

const levels = (out: number, inputs: number, bits: 4 | 8, size: number) =>
  ({
    decode: 'levels',
    out,
    in: inputs,
    bits,
    zeros: none,
    biases: none,
    levels: bits === 8 ? e4m3 : e2m1,
    groupOf: groupRunsOf(inputs, size),
  }) as const

const float8: Codec = {
  storage: ({ dtype }) => ({ decode: 'levels', scaleDtype: dtype }),
  layout: scheme => [
    tensorInfo(`${scheme.name}.weight`, 'F8_E4M3', [scheme.out, scheme.in]),
    tensorInfo(`${scheme.name}.weight_scale`, scheme.dtype, scaleShape(scheme)),
    ...inputLayout(scheme),
  ],
  data: (scheme, { codes, scales }) => [
    codes,
    floatBytes(storedScales(scheme, scales), scheme.dtype),
    ...inputData(scheme),
  ],
  unpack(scheme, tensors) {
    const { name, out, in: inputs, group, groups } = scheme
    const weight = checkedPart(tensors, `${name}.weight`, ['F8_E4M3'], [out, inputs], called)
    const scales = readScales(name, tensors, scaleShape(scheme))
    return {
      ...levels(out, inputs, 8, sizeOf(group, inputs)),
      codes: readFp8(weight),
      scales: spreadScales(scales, out, groups, group === 'block' ? 128 : 1),
    }
  },
}

const nvfp4: Codec = {
  storage: () => ({ decode: 'levels', scaleDtype: 'E4M3', second: 'global' }),
  layout: ({ name, out, in: inputs, groups }) => [
    tensorInfo(`${name}.weight_packed`, 'U8', [out, inputs / 2]),
    tensorInfo(`${name}.weight_scale`, 'F8_E4M3', [out, groups]),
    tensorInfo(`${name}.weight_global_scale`, 'F32', [1]),
  ],
  data: ({ name }, { codes, scales, globalScale }) => {
    if (globalScale === undefined) throw new Error(`${name}: NVFP4 without its global scale`)
    return [
      packLowFirst(codes),
      Uint8Array.from(scales, scale => e4m3Byte(nearestE4m3(scale * globalScale))),
      floatBytes(Float32Array.of(globalScale), 'F32'),
    ]
  },
  unpack({ name, out, in: inputs, groups }, tensors) {
    const weight = checkedPart(tensors, `${name}.weight_packed`, ['U8'], [out, inputs / 2], called)
    const scale = checkedPart(tensors, `${name}.weight_scale`, ['F8_E4M3'], [out, groups], called)
    const global = checkedPart(tensors, `${name}.weight_global_scale`, ['F32'], [1], called)
    const [globalScale] = readFloats(global, called)
    if (!(globalScale > 0)) throw damaged(global, `is ${globalScale}`, called)
    return {
      ...levels(out, inputs, 4, inputs / groups),
      codes: unpackLowFirst(readBytes(weight, called)),
      scales: Float32Array.from(readFp8(scale), code => Math.fround(e4m3[code] / globalScale)),
      globalScale,
    }
  },
}

/** A scale in effect times the global one is a value of E4M3 but for one rounding. */
const nearestE4m3 = (x: number): number => {
  const step = 2 ** (Math.max(-6, Math.floor(Math.log2(x))) - 3)
  return Math.round(x / step) * step
}

const exponents = (tensors: TensorLookup, name: string, shape: readonly number[]): Float32Array => {
  const tensor = checkedPart(tensors, `${name}.weight_scale`, ['U8', 'F8_E8M0'], shape, called)
  const scales = Float32Array.from(readBytes(tensor, called), e8m0Value)
  if (scales.some(Number.isNaN)) throw damaged(tensor, 'holds a NaN', called)
  return scales
}

const mxfp4: Codec = {
  storage: () => ({ decode: 'levels', scaleDtype: 'E8M0' }),
  layout: ({ name, out, in: inputs, groups }) => [
    tensorInfo(`${name}.weight_packed`, 'U8', [out, inputs / 2]),
    tensorInfo(`${name}.weight_scale`, 'U8', [out, groups]),
  ],
  data: (_, { codes, scales }) => [packLowFirst(codes), Uint8Array.from(scales, e8m0Byte)],
  unpack({ name, out, in: inputs, groups }, tensors) {
    const weight = checkedPart(tensors, `${name}.weight_packed`, ['U8'], [out, inputs / 2], called)
    return {
      ...levels(out, inputs, 4, inputs / groups),
      codes: unpackLowFirst(readBytes(weight, called)),
      scales: exponents(tensors, name, [out, groups]),
    }
  },
}

const mxfp8: Codec = {
  storage: () => ({ decode: 'levels', scaleDtype: 'E8M0' }),
  layout: ({ name, out, in: inputs, groups }) => [
    tensorInfo(`${name}.weight`, 'F8_E4M3', [out, inputs]),
    tensorInfo(`${name}.weight_scale`, 'U8', [out, groups]),
  ],
  data: (_, { codes, scales }) => [codes, Uint8Array.from(scales, e8m0Byte)],
  unpack({ name, out, in: inputs, groups }, tensors) {
    const weight = checkedPart(tensors, `${name}.weight`, ['F8_E4M3'], [out, inputs], called)
    return {
      ...levels(out, inputs, 8, inputs / groups),
      codes: readFp8(weight),
      scales: exponents(tensors, name, [out, groups]),
    }
  },
}

export const codecs: Readonly<Record<Kind, Codec>> = {
  'pack-quantized': packed,
  'int-quantized': int8,
  'float-quantized': float8,
  'nvfp4-pack-quantized': nvfp4,
  'mxfp4-pack-quantized': mxfp4,
  'mxfp8-quantized': mxfp8,
}

export const packKind = (scheme: LinearScheme, linear: CodedLinear): readonly StoredTensor[] => {
  const codec = codecs[kindOf(scheme)]
  return withData(codec.layout(scheme), codec.data(scheme, linear))
}

/** The kind of a module's tensors; undefined when it is not quantized. */
export const storedKind = (name: string, tensors: { get(name: string): TensorInfo | undefined }): Kind | undefined => {
  const words = tensors.get(`${name}.weight_packed`)
  if (words?.dtype === 'I32') return 'pack-quantized'
  if (words) return tensors.get(`${name}.weight_global_scale`) ? 'nvfp4-pack-quantized' : 'mxfp4-pack-quantized'
  const weight = tensors.get(`${name}.weight`)
  const scale = tensors.get(`${name}.weight_scale`)
  if (!weight || !scale) return undefined
  if (weight.dtype === 'I8') return 'int-quantized'
  if (weight.dtype !== 'F8_E4M3') return undefined
  return scale.dtype === 'U8' || scale.dtype === 'F8_E8M0' ? 'mxfp8-quantized' : 'float-quantized'
}
