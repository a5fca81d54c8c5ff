/** `quant_state` of a 4-bit weight: ASCII JSON in a U8 tensor (bitsandbytes/functional.py, QuantState.as_dict). */
import type { TensorSource } from '../contracts.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'
import { isObject } from '../io/is-object.ts'
import { printable } from '../io/printable.ts'
import type { Fields } from './config-fields.ts'
import { checkStored, damaged, readBytes } from './stored.ts'

export interface QuantState {
  readonly type: 'nf4' | 'fp4'
  readonly block: number
  readonly dtype: WeightDtype
  readonly shape: readonly [number, number]
  /** Mean of the scales, under double quantization. */
  readonly offset: number | undefined
}

const called = 'bitsandbytes'
const dtypeNames = { BF16: 'bfloat16', F16: 'float16', F32: 'float32' } as const

/** Far longer than any state that bitsandbytes writes. */
const maxBytes = 4096

/** Characters that any float32 takes as a decimal number in JSON. */
const offsetWidth = 25

/** As Python's json.dumps spaces it: without double quantization the bytes are those that the package writes. */
const jsonOf = ({ type, block, dtype, shape }: QuantState, offset: string | undefined): string => {
  const nested = `, "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": ${offset}`
  const plain = `"quant_type": "${type}", "blocksize": ${block}, "dtype": "${dtypeNames[dtype]}", "shape": [${shape.join(', ')}]`
  return `{${plain}${offset === undefined ? '' : nested}}`
}

/** The state's bytes. The offset's digits are not known beforehand: spaces behind them fill the tensor up. */
export const quantStateText = (state: QuantState): Uint8Array => {
  const { offset } = state
  const text = jsonOf(state, offset === undefined ? undefined : JSON.stringify(offset))
  return new TextEncoder().encode(text.padEnd(quantStateBytes(state, offset !== undefined)))
}

/** Bytes that `quantStateText` takes, whatever the offset is. */
export const quantStateBytes = (state: Omit<QuantState, 'offset'>, double: boolean): number =>
  jsonOf({ ...state, offset: undefined }, double ? ' '.repeat(offsetWidth) : undefined).length

const parse = (tensor: TensorSource): Fields => {
  checkStored(tensor, ['U8'], [-1], called)
  if (tensor.bytes > maxBytes) throw damaged(tensor, `has ${tensor.bytes} bytes, more than any state`, called)
  const bytes = readBytes(tensor, called)
  let state: unknown
  try {
    state = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch {
    throw damaged(tensor, 'is not JSON', called)
  }
  if (!isObject(state)) throw damaged(tensor, 'is not a JSON object', called)
  return state
}

const isSize = (value: unknown): value is number =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= 1

const isShape = (value: unknown): value is [number, number] =>
  Array.isArray(value) && value.length === 2 && value.every(isSize) && Number.isSafeInteger(value[0] * value[1])

/** What the package has kernels for. */
export const blockSizes: readonly number[] = [32, 64, 128, 256, 512, 1024, 2048, 4096]

export const isBlockSize = (size: unknown): size is number => (blockSizes as readonly unknown[]).includes(size)

/** @throws QuantizeError bad-input naming the tensor and the field, unsupported for a second level that no runtime reads */
export const readQuantState = (tensor: TensorSource): QuantState => {
  const state = parse(tensor)
  const wrong = (field: string) => damaged(tensor, `has a ${field} that cannot be`, called)
  const { quant_type: type, blocksize: block, shape, dtype: dtypeName } = state
  if (type !== 'nf4' && type !== 'fp4') throw wrong('quant_type')
  if (!tensor.name.endsWith(`__${type}`)) throw damaged(tensor, `says quant_type ${type}`, called)
  if (!isBlockSize(block)) throw wrong('blocksize')
  if (!isShape(shape)) throw wrong('shape')
  const dtype = (Object.keys(dtypeNames) as WeightDtype[]).find(name => dtypeNames[name] === dtypeName)
  if (!dtype) throw wrong('dtype')
  return { type, block, dtype, shape: [shape[0], shape[1]], offset: offsetOf(tensor, state) }
}

const offsetOf = (tensor: TensorSource, state: Fields): number | undefined => {
  const { nested_offset: offset, nested_blocksize: block, nested_dtype: dtype } = state
  if (offset === undefined) return undefined
  const rounded = typeof offset === 'number' ? Math.fround(offset) : Number.NaN
  if (!Number.isFinite(rounded)) throw damaged(tensor, 'has a nested_offset that cannot be', called)
  if (block !== 256 || dtype !== 'float32')
    throw new QuantizeError(
      'unsupported',
      `${printable(tensor.name)}: scales are quantized in blocks other than 256 of float32; bitsandbytes does not compute with those`,
    )
  return rounded
}
