/** `quant_state` of a 4-bit weight: ASCII JSON in a U8 tensor (bitsandbytes/functional.py, QuantState.as_dict). */
import type { TensorSource, WeightDtype } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { isObject } from './config-fields.ts'
import { checkStored, damaged, readBytes } from './stored.ts'

export interface QuantState {
  readonly type: 'nf4' | 'fp4'
  readonly block: number
  readonly dtype: WeightDtype
  readonly shape: readonly [number, number]
  /** Mean of the scales, under double quantization. */
  readonly offset: number | undefined
}

const dtypeNames = { BF16: 'bfloat16', F16: 'float16', F32: 'float32' } as const

/** Bytes that every state takes here: the text is filled up with spaces, since the offset's digits are not known beforehand. */
export const quantStateBytes = 256
/** Far longer than any state that bitsandbytes writes. */
const maxBytes = 4096

export const quantStateText = ({ type, block, dtype, shape, offset }: QuantState): Uint8Array => {
  const nested = { nested_blocksize: 256, nested_dtype: 'float32', nested_offset: offset }
  const state = {
    quant_type: type,
    blocksize: block,
    dtype: dtypeNames[dtype],
    shape,
    ...(offset === undefined ? {} : nested),
  }
  const text = new TextEncoder().encode(JSON.stringify(state).padEnd(quantStateBytes))
  if (text.byteLength !== quantStateBytes) throw new Error(`a state of ${text.byteLength} bytes`)
  return text
}

const parse = (tensor: TensorSource): Readonly<Record<string, unknown>> => {
  checkStored(tensor, ['U8'], [-1], 'bitsandbytes')
  if (tensor.bytes > maxBytes) throw damaged(tensor, `has ${tensor.bytes} bytes, more than any state`, 'bitsandbytes')
  let state: unknown
  try {
    state = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(readBytes(tensor, 'bitsandbytes')))
  } catch (error) {
    if (error instanceof QuantizeError) throw error
    throw damaged(tensor, 'is not JSON', 'bitsandbytes')
  }
  if (!isObject(state)) throw damaged(tensor, 'is not a JSON object', 'bitsandbytes')
  return state
}

const isSize = (value: unknown): value is number =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= 1

/** @throws QuantizeError bad-input naming the tensor and the field */
export const readQuantState = (tensor: TensorSource): QuantState => {
  const state = parse(tensor)
  const wrong = (field: string) => damaged(tensor, `has a ${field} that cannot be`, 'bitsandbytes')
  const { quant_type: type, blocksize: block, shape, dtype: dtypeName, nested_offset: offset } = state
  if (type !== 'nf4' && type !== 'fp4') throw wrong('quant_type')
  if (!isSize(block) || block > 65536) throw wrong('blocksize')
  if (!Array.isArray(shape) || shape.length !== 2 || !shape.every(isSize) || !Number.isSafeInteger(shape[0] * shape[1]))
    throw wrong('shape')
  const dtype = (Object.keys(dtypeNames) as WeightDtype[]).find(name => dtypeNames[name] === dtypeName)
  if (!dtype) throw wrong('dtype')
  if (offset !== undefined && (typeof offset !== 'number' || !Number.isFinite(offset))) throw wrong('nested_offset')
  if (offset !== undefined && state.nested_blocksize !== 256) throw wrong('nested_blocksize')
  return {
    type,
    block,
    dtype,
    shape: [shape[0], shape[1]],
    offset: offset === undefined ? undefined : Math.fround(offset as number),
  }
}
