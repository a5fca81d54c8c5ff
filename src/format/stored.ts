/** Stored tensors as formats describe, write and read them. Everything read is foreign input: dtype, shape and bytes are checked before use. */
import type { StoredTensor, TensorInfo, TensorSource } from '../contracts.ts'
import { fromFloat32, toFloat32 } from '../dtype/convert.ts'
import { type Dtype, dtypeBits, type WeightDtype } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'

export const tensorInfo = (name: string, dtype: Dtype, shape: readonly number[]): TensorInfo => ({
  name,
  dtype,
  shape,
  bytes: (shape.reduce((product, size) => product * size, 1) * dtypeBits[dtype]) / 8,
})

/** The layout's tensors with their data, in order. */
export const withData = (layout: readonly TensorInfo[], data: readonly Uint8Array[]): readonly StoredTensor[] =>
  layout.map((tensor, i) => {
    if (tensor.bytes !== data[i].byteLength)
      throw new Error(`${tensor.name}: ${data[i].byteLength} bytes for a layout of ${tensor.bytes}`)
    return { ...tensor, data: data[i] }
  })

/** Scales or biases in their dtype. They must be exact in it: `storage` said so before they were chosen. */
export const floatBytes = (values: Float32Array, dtype: WeightDtype): Uint8Array => fromFloat32(values, dtype)

export const damaged = (tensor: TensorInfo, problem: string, format: string): QuantizeError => {
  const file = 'file' in tensor ? `${printable(String(tensor.file))}: ` : ''
  return new QuantizeError('bad-input', `${file}${printable(tensor.name)} ${problem}; not a sound ${format} checkpoint`)
}

/**
 * One of the dtypes, the given sizes (−1: any of at least 1), and the bytes that the shape asks for.
 * @throws QuantizeError bad-input
 */
export const checkStored = (
  tensor: TensorInfo,
  dtypes: readonly Dtype[],
  sizes: readonly number[],
  format: string,
): void => {
  const { dtype, shape, bytes } = tensor
  if (!dtypes.includes(dtype)) throw damaged(tensor, `is ${dtype}, expected ${dtypes.join(' or ')}`, format)
  const fits = (size: number, i: number): boolean =>
    Number.isSafeInteger(size) && size >= 1 && (sizes[i] === -1 || sizes[i] === size)
  if (shape.length !== sizes.length || !shape.every(fits))
    throw damaged(
      tensor,
      `has shape [${shape}], expected [${sizes.map(size => (size === -1 ? 'n' : size)).join(', ')}]`,
      format,
    )
  const expected = (shape.reduce((product, size) => product * size, 1) * dtypeBits[dtype]) / 8
  if (bytes !== expected) throw damaged(tensor, `has ${bytes} bytes, its shape [${shape}] takes ${expected}`, format)
}

/** @throws QuantizeError bad-input when it is missing */
export const partOf = <T extends TensorInfo>(
  lookup: (name: string) => T | undefined,
  name: string,
  format: string,
): T => {
  const tensor = lookup(name)
  if (!tensor) throw new QuantizeError('bad-input', `${printable(name)} is missing; not a sound ${format} checkpoint`)
  return tensor
}

/** All bytes of a tensor, at an address that words can be read from. */
export const readBytes = (tensor: TensorSource, format: string): Uint8Array => {
  const bytes = tensor.read()
  if (bytes.byteLength !== tensor.bytes)
    throw damaged(tensor, `ends after ${bytes.byteLength} of ${tensor.bytes} bytes`, format)
  return bytes.byteOffset % 8 === 0 ? bytes : bytes.slice()
}

export const readWords = (tensor: TensorSource, format: string): Uint32Array => {
  const bytes = readBytes(tensor, format)
  return new Uint32Array(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength / 4)
}

/** Values of a float tensor. @throws QuantizeError bad-input for one that is not finite */
export const readFloats = (tensor: TensorSource, format: string): Float32Array => {
  const values = toFloat32(readBytes(tensor, format), tensor.dtype)
  if (!values.every(Number.isFinite)) throw damaged(tensor, 'holds an infinite value or a NaN', format)
  return values
}

/** A part of a module, found, checked and described by the caller's sizes. */
export const checkedPart = <T extends TensorInfo>(
  lookup: (name: string) => T | undefined,
  name: string,
  dtypes: readonly Dtype[],
  sizes: readonly number[],
  format: string,
): T => {
  const tensor = partOf(lookup, name, format)
  checkStored(tensor, dtypes, sizes, format)
  return tensor
}

/** [in]: the group of each column, runs of `size`. */
export const groupRunsOf = (inputs: number, size: number): Int32Array =>
  Int32Array.from({ length: inputs }, (_, column) => Math.floor(column / size))

export const none = new Float32Array(0)

/** Head, embedding or linear, by the module's name. */
export const roleOf = (module: string): 'linear' | 'head' | 'embedding' =>
  /(^|\.)lm_head$/.test(module)
    ? 'head'
    : /(^|\.)(embed_tokens|wte|word_embeddings)$/.test(module)
      ? 'embedding'
      : 'linear'

/** The module whose weight a tensor of transformers is. */
export const moduleOf = (tensor: string): string => tensor.replace(/\.weight$/, '')
