import { QuantizeError } from '../errors.ts'
import type { Dtype, WeightDtype } from './dtype.ts'

/**
 * Stored floats <-> float32. Files and every machine that Node's engines support here are little-endian.
 * Bits are moved as integers, so that NaN payloads survive: to float32 and back gives the stored bytes again.
 */

export type FloatDtype = 'F16' | 'BF16' | 'F32' | 'F64'

const elementBytes: Readonly<Record<FloatDtype, number>> = { F16: 2, BF16: 2, F32: 4, F64: 8 }

/** Whether toFloat32 reads this dtype. */
export const isFloat = (dtype: Dtype): dtype is FloatDtype => Object.hasOwn(elementBytes, dtype)

/** Whether fromFloat32 writes this dtype. */
export const isWeightDtype = (dtype: string | undefined): dtype is WeightDtype =>
  dtype === 'F32' || dtype === 'F16' || dtype === 'BF16'

/** float32 bits of an F16 pattern (1-5-10, bias 15). */
const halfToBits = (half: number): number => {
  const sign = (half & 0x8000) << 16
  const exponent = (half >>> 10) & 31
  const mantissa = half & 0x3ff
  if (exponent === 31) return sign | 0x7f800000 | (mantissa << 13)
  if (exponent > 0) return sign | ((exponent + 112) << 23) | (mantissa << 13)
  if (mantissa === 0) return sign
  const shift = Math.clz32(mantissa) - 21 // brings the leading one to bit 10
  return sign | ((113 - shift) << 23) | (((mantissa << shift) & 0x3ff) << 13)
}

let halfTable: Uint32Array | undefined

/** float32 bits of all 65536 F16 patterns; 256 KiB, made once. */
const halfBits = (): Uint32Array => {
  halfTable ??= Uint32Array.from({ length: 65536 }, (_, half) => halfToBits(half))
  return halfTable
}

/** The float32 of every F16 pattern. */
export const float16Values = (): Float32Array => new Float32Array(halfBits().buffer)

/** The same bytes at an address that typed arrays of `size`-byte elements accept; copied only where it has to be. */
const aligned = (bytes: Uint8Array, size: number): Uint8Array =>
  bytes.byteOffset % size === 0 ? bytes : new Uint8Array(bytes)

const widen: Readonly<Record<FloatDtype, (bytes: Uint8Array, out: Float32Array) => void>> = {
  F32: (bytes, out) => new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(bytes),
  F64: (bytes, out) => out.set(new Float64Array(bytes.buffer, bytes.byteOffset, out.length)),
  BF16: (bytes, out) => {
    const from = new Uint16Array(bytes.buffer, bytes.byteOffset, out.length)
    const to = new Uint32Array(out.buffer, out.byteOffset, out.length)
    for (let i = 0; i < to.length; i++) to[i] = from[i] << 16
  },
  F16: (bytes, out) => {
    const table = halfBits()
    const from = new Uint16Array(bytes.buffer, bytes.byteOffset, out.length)
    const to = new Uint32Array(out.buffer, out.byteOffset, out.length)
    for (let i = 0; i < to.length; i++) to[i] = table[from[i]]
  },
}

/**
 * Stored little-endian values as float32: exact for F16, BF16 and F32; F64 is rounded to nearest even.
 * `bytes` may start at any address and lie in shared memory. The result (`into` when given, whose length must fit) never aliases it.
 * @throws QuantizeError unsupported for a dtype that is not one of F16, BF16, F32, F64
 */
export const toFloat32 = (bytes: Uint8Array, dtype: Dtype, into?: Float32Array): Float32Array => {
  if (!isFloat(dtype))
    throw new QuantizeError('unsupported', `${dtype} values cannot be read as numbers; F16, BF16, F32 and F64 can`)
  const size = elementBytes[dtype]
  const out = into ?? new Float32Array(Math.floor(bytes.byteLength / size))
  if (out.length * size !== bytes.byteLength)
    throw new RangeError(`${bytes.byteLength} bytes are not ${out.length} values of ${dtype}`)
  widen[dtype](aligned(bytes, size), out)
  return out
}

/** F16 pattern of float32 bits, to nearest even (IEEE 754); a NaN keeps the top of its payload and stays a NaN. */
const bitsToHalf = (bits: number): number => {
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude >= 0x38800000) {
    if (magnitude < 0x47800000) return sign | ((magnitude - 0x37fff001 + ((magnitude >>> 13) & 1)) >>> 13)
    if (magnitude <= 0x7f800000) return sign | 0x7c00
    return sign | 0x7c00 | ((magnitude >>> 13) & 0x3ff || 0x200)
  }
  const shift = 126 - (magnitude >>> 23) // below 2^-14: units of 2^-24
  if (shift > 24) return sign
  const mantissa = (magnitude & 0x7fffff) | 0x800000
  return sign | ((mantissa + (1 << (shift - 1)) - 1 + ((mantissa >>> shift) & 1)) >>> shift)
}

/** BF16 pattern of float32 bits, to nearest even; a NaN keeps the top of its payload and stays a NaN. */
const bitsToBfloat = (bits: number): number => {
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | ((bits & 0x7f0000) === 0 ? 0x40 : 0)
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) | 0) >>> 16
}

/** Signed words in: small integers stay unboxed. One loop a dtype, so that the engine inlines its pattern. */
const narrow: Readonly<Record<'F16' | 'BF16', (from: Int32Array, to: Uint16Array) => void>> = {
  F16: (from, to) => {
    for (let i = 0; i < to.length; i++) to[i] = bitsToHalf(from[i])
  },
  BF16: (from, to) => {
    for (let i = 0; i < to.length; i++) to[i] = bitsToBfloat(from[i])
  },
}

/** Float32 values as stored bytes, rounded to nearest even; overflow becomes infinity. The result never aliases `values`. */
export const fromFloat32 = (values: Float32Array, dtype: WeightDtype): Uint8Array => {
  if (dtype === 'F32') return new Uint8Array(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
  const to = new Uint16Array(values.length)
  narrow[dtype](new Int32Array(values.buffer, values.byteOffset, values.length), to)
  return new Uint8Array(to.buffer)
}
