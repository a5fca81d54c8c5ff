/** The blocks of a tensor as numbers, and back. */
import { float16Values, fromFloat32, toFloat32 } from '../dtype/convert.ts'
import { e8m0Byte, e8m0Value } from '../dtype/small-floats.ts'
import { QuantizeError } from '../errors.ts'
import { type BlockLayout, layoutOf } from './block-layouts.ts'
import { readPlanes, writePlanes } from './code-planes.ts'
import type { Codes } from './sub-scales.ts'
import { readTrits, writeTrits } from './trits.ts'
import { type GgmlTypeName, ggmlTypes } from './types.ts'

/** What blocks hold, in the order of the weights, row after row. */
export interface GgmlBlocks {
  /** One a weight, from 0 up. */
  readonly codes: Uint8Array
  /** One a block, as it is stored: F16, or a power of two (MXFP4). */
  readonly d: Float32Array
  /** One a block: the scale of minima (Q2_K, Q4_K, Q5_K) or the minimum (Q4_1, Q5_1); else empty. */
  readonly dmin: Float32Array
  /** One a sub-block of a super-block; else empty. Signed where 0 is not the least: Q3_K, IQ4_XS −32 … 31, Q6_K −128 … 127. */
  readonly scaleCodes: Codes
  /** One a sub-block of Q2_K, Q4_K, Q5_K; else empty. */
  readonly minCodes: Uint8Array
}

const known = (type: GgmlTypeName): BlockLayout => {
  const layout = layoutOf(type)
  if (layout) return layout
  throw new QuantizeError('unsupported', `${type} is not decoded; ${decodedTypes.join(', ')} are`)
}

export const decodedTypes = (Object.keys(ggmlTypes) as readonly GgmlTypeName[]).filter(type => layoutOf(type))

/** A float of each block. */
const readFloats = (bytes: Uint8Array, stride: number, { at, dtype }: BlockLayout['d']): Float32Array => {
  const count = bytes.length / stride
  if (dtype === 'E8M0') return Float32Array.from({ length: count }, (_, block) => e8m0Value(bytes[block * stride + at]))
  if (dtype === 'F16') {
    const table = float16Values()
    const values = new Float32Array(count)
    for (let block = 0, byte = at; block < count; block++, byte += stride)
      values[block] = table[bytes[byte] | (bytes[byte + 1] << 8)]
    return values
  }
  const width = 4
  const gathered = new Uint8Array(count * width)
  for (let block = 0; block < count; block++)
    for (let i = 0; i < width; i++) gathered[block * width + i] = bytes[block * stride + at + i]
  return toFloat32(gathered, dtype)
}

const writeFloats = (
  values: Float32Array,
  bytes: Uint8Array,
  stride: number,
  { at, dtype }: BlockLayout['d'],
): void => {
  const stored = dtype === 'E8M0' ? Uint8Array.from(values, e8m0Byte) : fromFloat32(values, dtype)
  const width = stored.length / values.length
  for (let block = 0; block < values.length; block++)
    for (let i = 0; i < width; i++) bytes[block * stride + at + i] = stored[block * width + i]
}

const none = { floats: new Float32Array(0), codes: new Uint8Array(0) }

/** All but the codes. @throws as unpackBlocks */
export const unpackParameters = (type: GgmlTypeName, bytes: Uint8Array): Omit<GgmlBlocks, 'codes'> => {
  const { d, dmin, scales } = known(type)
  const { bytes: stride } = ggmlTypes[type]
  const count = bytes.length / stride
  if (!Number.isInteger(count)) throw new RangeError(`${bytes.length} bytes are no whole blocks of ${type}`)
  const scaleCodes = scales ? new (scales.range[0] < 0 ? Int8Array : Uint8Array)(count * scales.count) : none.codes
  const minCodes = scales?.minima ? new Uint8Array(count * scales.count) : none.codes
  if (scales) for (let i = 0; i < count; i++) scales.read(bytes, i * stride, scaleCodes, minCodes, i * scales.count)
  return {
    d: readFloats(bytes, stride, d),
    dmin: dmin === undefined ? none.floats : readFloats(bytes, stride, { at: dmin, dtype: 'F16' }),
    scaleCodes,
    minCodes,
  }
}

/**
 * @param bytes of whole blocks
 * @throws QuantizeError unsupported for a type that we do not decode; RangeError for a part of a block
 */
export const unpackBlocks = (type: GgmlTypeName, bytes: Uint8Array): GgmlBlocks => {
  const parameters = unpackParameters(type, bytes)
  const { planes, offset = 0 } = known(type)
  const { block, bytes: stride } = ggmlTypes[type]
  const count = bytes.length / stride
  const codes = new Uint8Array(count * block)
  if (planes) readPlanes(planes, bytes, stride, codes)
  else for (let i = 0; i < count; i++) readTrits(bytes, i * stride, codes, i * block)
  if (offset > 0) for (let i = 0; i < codes.length; i++) codes[i] += offset // wraps: signed bytes become codes
  return { codes, ...parameters }
}

/** The inverse of `unpackBlocks`, for all types but Q8_K, which no file holds. @throws QuantizeError unsupported */
export const packBlocks = (type: GgmlTypeName, { codes, d, dmin, scaleCodes, minCodes }: GgmlBlocks): Uint8Array => {
  const layout = known(type)
  if (type === 'Q8_K') throw new QuantizeError('unsupported', 'Q8_K is for activations; Q8_0 stores weights')
  const { planes, offset = 0, scales } = layout
  const { block, bytes: stride } = ggmlTypes[type]
  const bytes = new Uint8Array(d.length * stride)
  const stored = offset > 0 ? codes.map(code => code - offset) : codes
  if (planes) writePlanes(planes, stored, stride, bytes)
  else for (let i = 0; i < d.length; i++) writeTrits(stored, i * block, bytes, i * stride)
  if (scales) for (let i = 0; i < d.length; i++) scales.write(bytes, i * stride, scaleCodes, minCodes, i * scales.count)
  writeFloats(d, bytes, stride, layout.d)
  if (layout.dmin !== undefined) writeFloats(dmin, bytes, stride, { at: layout.dmin, dtype: 'F16' })
  return bytes
}
