/**
 * What HQQ keeps of a linear beside codes, scales and zero points: each field of its state a small tensor of its own (hqq/core/quantize.py,
 * HQQLinear.state_dict; core/utils.py: booleans as U8, whole numbers as I32, text as ASCII bytes). The loader wants all of them.
 */

import type { LinearScheme, TensorInfo, TensorLookup, TensorSource } from '../contracts.ts'
import { bytesOf } from '../dtype/bytes.ts'
import type { Dtype, WeightDtype } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'
import { type Packing, packingNamed, packingOf } from './hqq-packing.ts'
import { checkedPart, checkStored, damaged, readBytes, tensorInfo } from './stored.ts'

export const called = 'HQQ'

const torchNames: Readonly<Record<WeightDtype, string>> = {
  F16: 'torch.float16',
  BF16: 'torch.bfloat16',
  F32: 'torch.float32',
}

/** Weights of a group: a row's, or so many of the flattened weight. */
export const groupOf = ({ group, in: inputs }: LinearScheme): number => (typeof group === 'number' ? group : inputs)

interface Field {
  readonly info: TensorInfo
  readonly data: Uint8Array
}

/** The fields of a linear that we write, in the library's order. */
export const metaFields = (scheme: LinearScheme): readonly Field[] => {
  const { name, out, in: inputs, bits, dtype } = scheme
  const field = (key: string, dtype: Dtype, shape: readonly number[], data: Uint8Array): Field => ({
    info: tensorInfo(`${name}.${key}`, dtype, shape),
    data,
  })
  const whole = (key: string, value: number) => field(key, 'I32', [], bytesOf(Int32Array.of(value)))
  const flag = (key: string, value: boolean) => field(key, 'U8', [], Uint8Array.of(value ? 1 : 0))
  const text = (key: string, value: string) => field(key, 'U8', [value.length], new TextEncoder().encode(value))
  const packing = packingOf(bits)!
  return [
    whole('nbits', bits),
    whole('group_size', groupOf(scheme)),
    field('shape', 'I64', [2], bytesOf(BigInt64Array.of(BigInt(out), BigInt(inputs)))),
    whole('axis', 1),
    text('packing', packing.name),
    text('unpack_view_dtype', packing.word === 'I32' ? 'torch.int32' : 'torch.uint8'),
    flag('view_as_float', false),
    flag('quant_scale', false),
    flag('quant_zero', false),
    text('compute_dtype', torchNames[dtype]),
    flag('offload_meta', false),
    flag('encoded_state_dict', true),
    flag('stores_quant_config', true),
    flag('channel_wise', true),
    flag('optimize', false),
    flag('round_zero', true),
  ]
}

/** What a stored linear says of itself. */
export interface HqqMeta {
  readonly out: number
  readonly in: number
  readonly packing: Packing
  readonly nbits: number
  readonly group: number
  readonly axis: 0 | 1
  /** Words are declared as floats of the compute dtype. */
  readonly viewAsFloat: boolean
  readonly dtype: WeightDtype | undefined
}

const maxTextBytes = 64

const readText = (tensor: TensorSource): string => {
  checkStored(tensor, ['U8'], [-1], called)
  if (tensor.bytes > maxTextBytes) throw damaged(tensor, `has ${tensor.bytes} bytes, more than any name`, called)
  return String.fromCharCode(...readBytes(tensor, called))
}

const numbersOf: Partial<Record<Dtype, (view: DataView) => number>> = {
  U8: view => view.getUint8(0),
  I32: view => view.getInt32(0, true),
  F32: view => view.getFloat32(0, true),
}

const readNumber = (tensors: TensorLookup, name: string, dtypes: readonly Dtype[]): number => {
  const tensor = checkedPart(tensors, name, dtypes, [], called)
  const bytes = readBytes(tensor, called)
  return numbersOf[tensor.dtype]!(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength))
}

const readShape = (tensors: TensorLookup, name: string): readonly [number, number] => {
  const tensor = checkedPart(tensors, name, ['I64'], [2], called)
  const bytes = readBytes(tensor, called)
  const [out, inputs] = Array.from(new BigInt64Array(bytes.buffer as ArrayBuffer, bytes.byteOffset, 2), Number)
  if (!(out >= 1 && inputs >= 1 && Number.isSafeInteger(out * inputs)))
    throw damaged(tensor, `says [${out}, ${inputs}]`, called)
  return [out, inputs]
}

const readPacking = (tensors: TensorLookup, module: string, nbits: number): Packing => {
  const tensor = checkedPart(tensors, `${module}.packing`, ['U8'], [-1], called)
  const name = readText(tensor)
  const packing = packingNamed(name)
  if (!packing) throw damaged(tensor, `says ${JSON.stringify(printable(name))}, which is no packing`, called)
  if (!packing.holds.includes(nbits)) throw damaged(tensor, `says ${name} for ${nbits} bits`, called)
  return packing
}

const refuseQuantizedMeta = (tensors: TensorLookup, module: string): void => {
  for (const key of ['quant_scale', 'quant_zero'])
    if (tensors(`${module}.${key}`) && readNumber(tensors, `${module}.${key}`, ['U8']) !== 0)
      throw new QuantizeError(
        'unsupported',
        `${printable(module)}.${key}: scales or zero points that are quantized themselves cannot be read; hqq's present releases write them as floats`,
      )
}

/**
 * Fields that only a loader needs (`optimize`, `round_zero`, …) are not asked for.
 * @throws QuantizeError bad-input naming the field's tensor; unsupported for quantized scales or zero points
 */
export const readMeta = (tensors: TensorLookup, module: string): HqqMeta => {
  refuseQuantizedMeta(tensors, module)
  const number = (key: string, dtypes: readonly Dtype[]) => readNumber(tensors, `${module}.${key}`, dtypes)
  const wrong = (key: string, value: number) => damaged(tensors(`${module}.${key}`)!, `says ${value}`, called)
  const [out, inputs] = readShape(tensors, `${module}.shape`)
  const nbits = number('nbits', ['I32', 'F32'])
  const group = number('group_size', ['I32'])
  const axis = number('axis', ['I32'])
  if (group < 1 || (out * inputs) % group !== 0) throw wrong('group_size', group)
  if (axis !== 0 && axis !== 1) throw wrong('axis', axis)
  const optional = (key: string): TensorSource | undefined => tensors(`${module}.${key}`)
  const computes = optional('compute_dtype')
  const dtypeName = computes && readText(computes)
  return {
    out,
    in: inputs,
    packing: readPacking(tensors, module, nbits),
    nbits,
    group,
    axis,
    viewAsFloat: optional('view_as_float') !== undefined && number('view_as_float', ['U8']) !== 0,
    dtype: (Object.keys(torchNames) as WeightDtype[]).find(dtype => torchNames[dtype] === dtypeName),
  }
}
