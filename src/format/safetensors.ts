/** Weights as values, without codes: what every loader of plain checkpoints reads. */
import type {
  AssembleFacts,
  CodedLinear,
  DenseLinear,
  Format,
  LinearScheme,
  StoredTensor,
  TensorInfo,
  TensorLookup,
} from '../contracts.ts'
import { dequantize } from '../dequantize.ts'
import { fromFloat32, toFloat32 } from '../dtype/convert.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'
import { type Fields, jsonText } from './config-fields.ts'
import { everyBits, everyGrid, gridStorage } from './grid-storage.ts'
import { checkedPart, damaged, readBytes, tensorInfo } from './stored.ts'

const torchNames: Readonly<Record<WeightDtype, string>> = { F32: 'float32', F16: 'float16', BF16: 'bfloat16' }

const wider: Readonly<Record<WeightDtype, string>> = {
  F16: 'safetensors:bf16 or safetensors:f32 can',
  BF16: 'safetensors:f32 can',
  F32: 'no dtype of weights can',
}

const weightInfo = ({ name, out, in: inputs }: LinearScheme, dtype: WeightDtype): TensorInfo =>
  tensorInfo(`${name}.weight`, dtype, [out, inputs])

/** The place of the first NaN or infinity, or -1. */
const firstNonFinite = (values: Float32Array): number => {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) return i
  return -1
}

/** @throws QuantizeError unsupported for a value that the dtype cannot hold */
const checkFinite = (stored: Uint8Array, dtype: WeightDtype, values: Float32Array, name: string): void => {
  const lost = firstNonFinite(toFloat32(stored, dtype))
  if (lost < 0) return
  throw new QuantizeError(
    'unsupported',
    `${printable(name)} holds ${values[lost]}, more than ${dtype} can hold; ${wider[dtype]}`,
    { lasting: true },
  )
}

const packWeight = (scheme: LinearScheme, linear: CodedLinear, dtype: WeightDtype): readonly StoredTensor[] => {
  const info = weightInfo(scheme, dtype)
  // blocks over the flattened weight may leave padding behind it
  const values = dequantize(linear).subarray(0, scheme.out * scheme.in)
  const data = fromFloat32(values, dtype)
  checkFinite(data, dtype, values, info.name)
  return [{ ...info, data }]
}

const unpackWeight = (module: string, lookup: TensorLookup): DenseLinear => {
  const tensor = checkedPart(lookup, `${module}.weight`, ['F32', 'F16', 'BF16'], [-1, -1], 'safetensors')
  const [out, inputs] = tensor.shape
  const values = toFloat32(readBytes(tensor, 'safetensors'), tensor.dtype)
  if (firstNonFinite(values) >= 0) throw damaged(tensor, 'holds an infinite weight or a NaN', 'safetensors')
  return { decode: 'dense', out, in: inputs, values }
}

/** What config.json says of the dtype, in the keys that it has: `torch_dtype` until transformers 4, `dtype` from 5 on. */
const dtypeKeys = (config: Fields): readonly string[] => {
  const present = ['torch_dtype', 'dtype'].filter(key => Object.hasOwn(config, key))
  return present.length > 0 ? present : ['torch_dtype']
}

/** config.json without any quantization; its dtype is that of the weights, where they agree. */
const assemblePlain = (
  source: Fields | undefined,
  { linears }: AssembleFacts,
  dtypeOf: (scheme: LinearScheme) => WeightDtype,
): ReadonlyMap<string, string> => {
  if (!source) return new Map()
  const { quantization_config, quantization, compression_config, ...config } = source
  const dtypes = new Set(linears.map(dtypeOf))
  const [dtype] = dtypes.size === 1 ? dtypes : []
  const changed = dtype ? Object.fromEntries(dtypeKeys(config).map(key => [key, torchNames[dtype]])) : {}
  return new Map([['config.json', jsonText({ ...config, ...changed })]])
}

/** @param fixed dtype of the weights; undefined: that of the source's */
const plainFormat = (name: string, fixed?: WeightDtype): Format => {
  const dtypeOf = ({ dtype }: LinearScheme): WeightDtype => fixed ?? dtype
  return {
    name,
    facts: {
      summary: `decoded weights, in ${fixed ? torchNames[fixed] : "the source's dtype"}: as large as before`,
      grids: everyGrid,
      bits: everyBits,
      groups: 'any',
      loaders: 'whatever loads the unquantized model',
      head: true,
      embedding: true,
      dense: true,
      ...(fixed ? { valueDtype: fixed, restDtypes: [fixed] } : {}),
    },
    storage: gridStorage,
    refuses: () => undefined,
    warnings: () => [],
    layout: scheme => [weightInfo(scheme, dtypeOf(scheme))],
    pack: (scheme, linear) => packWeight(scheme, linear, dtypeOf(scheme)),
    unpack: unpackWeight,
    detect: () => undefined, // a plain checkpoint is not a quantized one
    assemble: (source, facts) => assemblePlain(source, facts, dtypeOf),
  }
}

export const safetensors = plainFormat('safetensors')
export const safetensorsBf16 = plainFormat('safetensors:bf16', 'BF16')
export const safetensorsF16 = plainFormat('safetensors:f16', 'F16')
export const safetensorsF32 = plainFormat('safetensors:f32', 'F32')
