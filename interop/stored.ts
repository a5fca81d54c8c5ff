/** The tensors of a checkpoint, from the headers of its files; and what a linear takes of them. */
import { closeSync, openSync, readdirSync, readFileSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { fromBinary } from '@bufbuild/protobuf'
import { ModelProtoSchema, type TensorProto } from 'onnx-buf'
import { toHfName } from '../src/gguf/names.ts'
import { openGguf } from '../src/gguf/open-gguf.ts'
import { nodeFiles } from '../src/io/files.ts'

export interface StoredTensor {
  readonly dtype: string
  readonly shape: readonly number[]
  readonly bytes: number
}

/** Headers of every safetensors file of a folder, or the initializers of its ONNX graphs. */
export const readHeaders = (folder: string): Map<string, StoredTensor> => {
  const tensors = new Map<string, StoredTensor>()
  for (const file of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    const [, kind = ''] = /\.(safetensors|onnx|gguf)$/.exec(file) ?? []
    const read = { safetensors: safetensorsOf, onnx: initializersOf, gguf: ggufOf }[kind]
    for (const [name, tensor] of read?.(join(folder, file)) ?? []) tensors.set(name, tensor)
  }
  return tensors
}

const safetensorsOf = (file: string): [string, StoredTensor][] =>
  Object.entries(readHeader(file))
    .filter(([name]) => name !== '__metadata__')
    .map(([name, entry]) => {
      const { dtype, shape, data_offsets } = entry as { dtype: string; shape: number[]; data_offsets: number[] }
      return [name, { dtype, shape, bytes: data_offsets[1] - data_offsets[0] }]
    })

const readHeader = (file: string): object => {
  const descriptor = openSync(file, 'r')
  try {
    const length = Buffer.alloc(8)
    readSync(descriptor, length, 0, 8, 0)
    const header = Buffer.alloc(Number(length.readBigUInt64LE()))
    readSync(descriptor, header, 0, header.length, 8)
    return JSON.parse(header.toString('utf8'))
  } finally {
    closeSync(descriptor)
  }
}

/** Under transformers' names. */
const ggufOf = (file: string): [string, StoredTensor][] => {
  const { tensors, close } = openGguf(file, nodeFiles)
  close()
  return [...tensors.values()].map(({ name, type, shape, bytes }) => [toHfName(name)!, { dtype: type, shape, bytes }])
}

/** By TensorProto.DataType. */
const onnxDtypes: Readonly<Record<number, string>> = { 1: 'F32', 2: 'U8', 10: 'F16', 16: 'BF16' }

const initializersOf = (file: string): [string, StoredTensor][] =>
  fromBinary(ModelProtoSchema, readFileSync(file)).graph!.initializer.map((tensor: TensorProto) => {
    const length = tensor.externalData.find(({ key }) => key === 'length')?.value
    const bytes = length === undefined ? tensor.rawData.length : Number(length)
    return [tensor.name, { dtype: onnxDtypes[tensor.dataType] ?? '', shape: tensor.dims.map(Number), bytes }]
  })

const floats = new Set(['F64', 'F32', 'F16', 'BF16'])

/** Tensors of a module whose size does not grow with the weight: shapes, tables, flags, scalars. No formula counts them. */
const fixedNames = [
  /\.(weight_shape|weight_format|weight_global_scale|input_global_scale|input_scale|output_scale|input_zero_point)$/,
  /\.weight\.(quant_map|nested_quant_map|quant_state\..*)$/,
  /\.(levels|global_scale)$/,
  /\.(nbits|group_size|shape|axis|packing|unpack_view_dtype|view_as_float|quant_scale|quant_zero|compute_dtype)$/,
  /\.(offload_meta|encoded_state_dict|stores_quant_config|channel_wise|optimize|round_zero)$/,
]

const isFixed = (name: string): boolean => fixedNames.some(pattern => pattern.test(name))

/** Of one linear: what its tensors take, in bits; the fixed ones apart. */
export interface Size {
  readonly bits: number
  readonly fixedBits: number
}

/** undefined for a linear that is stored as it was. */
export const sizeOnDisk = (module: string, tensors: ReadonlyMap<string, StoredTensor>): Size | undefined => {
  const own = [...tensors].filter(([name]) => name.startsWith(`${module}.`) && name !== `${module}.bias`)
  if (own.every(([name, { dtype }]) => name === `${module}.weight` && floats.has(dtype))) return undefined
  const bitsOf = (part: typeof own) => part.reduce((total, [, { bytes }]) => total + 8 * bytes, 0)
  return {
    bits: bitsOf(own.filter(([name]) => !isFixed(name))),
    fixedBits: bitsOf(own.filter(([name]) => isFixed(name))),
  }
}

/** The dtype of a weight that is one tensor. */
export const dtypeOf = (module: string, tensors: ReadonlyMap<string, StoredTensor>): string =>
  tensors.get(`${module}.weight`)?.dtype ?? ''

const scaleNames = [
  'scales',
  'weight_scale',
  'weight_scales',
  'weight_scale_inv',
  'scale',
  'weight._scale',
  'weight.absmax',
  'weight.SCB',
]
const widths: Readonly<Record<string, number>> = { F32: 32, F16: 16, BF16: 16 }

/** Of a linear's scales, as stored: where a format takes the model's own dtype, no formula knows it. */
export const scaleWidth = (module: string, tensors: ReadonlyMap<string, StoredTensor>): number => {
  for (const name of scaleNames) {
    const scale = tensors.get(`${module}.${name}`)
    if (scale) return widths[scale.dtype] ?? 8
  }
  return 0
}
