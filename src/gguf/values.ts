/** Values of GGUF's metadata (ggml/include/gguf.h, enum gguf_type): their numbers, widths and bytes, little-endian. */

interface ScalarType {
  /** As GGUF stores it. */
  readonly id: number
  /** Bytes; of a string those of its length. */
  readonly bytes: number
}

const scalarType = (id: number, bytes: number): ScalarType => ({ id, bytes })

export const ggufScalars = {
  u8: scalarType(0, 1),
  i8: scalarType(1, 1),
  u16: scalarType(2, 2),
  i16: scalarType(3, 2),
  u32: scalarType(4, 4),
  i32: scalarType(5, 4),
  f32: scalarType(6, 4),
  bool: scalarType(7, 1),
  string: scalarType(8, 8),
  u64: scalarType(10, 8),
  i64: scalarType(11, 8),
  f64: scalarType(12, 8),
} as const

export const arrayId = 9

export type GgufScalarType = keyof typeof ggufScalars

/** u64 and i64: bigint; bool: boolean; string: string; the rest: number. */
export type GgufScalar = number | bigint | boolean | string

export interface GgufSingle {
  readonly type: GgufScalarType
  readonly value: GgufScalar
}

export interface GgufArray {
  readonly type: 'array'
  readonly of: GgufScalarType
  readonly length: number
  /** Decoded anew at each call: a vocabulary need not stay in memory. @throws QuantizeError bad-input for a string that is no UTF-8, or another bool than 0 and 1 */
  values(): readonly GgufScalar[]
  /** Of an array that was read: as it was stored. */
  stored?(): Uint8Array
}

export type GgufValue = GgufSingle | GgufArray

/** By key, in the order of the file. */
export type GgufMetadata = ReadonlyMap<string, GgufValue>

const byId = new Map(Object.entries(ggufScalars).map(([name, { id }]) => [id, name as GgufScalarType]))

/** undefined for the id of arrays, and for one that is not known. */
export const scalarTypeName = (id: number): GgufScalarType | undefined => byId.get(id)

export const single = (type: GgufScalarType, value: GgufScalar): GgufSingle => ({ type, value })

export const arrayOf = (of: GgufScalarType, values: readonly GgufScalar[]): GgufArray => ({
  type: 'array',
  of,
  length: values.length,
  values: () => values,
})

type Numeric = Exclude<GgufScalarType, 'string' | 'bool'>

const readers: Readonly<Record<Numeric, (view: DataView, at: number) => number | bigint>> = {
  u8: (view, at) => view.getUint8(at),
  i8: (view, at) => view.getInt8(at),
  u16: (view, at) => view.getUint16(at, true),
  i16: (view, at) => view.getInt16(at, true),
  u32: (view, at) => view.getUint32(at, true),
  i32: (view, at) => view.getInt32(at, true),
  f32: (view, at) => view.getFloat32(at, true),
  u64: (view, at) => view.getBigUint64(at, true),
  i64: (view, at) => view.getBigInt64(at, true),
  f64: (view, at) => view.getFloat64(at, true),
}

export const readNumber = (type: Numeric, view: DataView, at: number): number | bigint => readers[type](view, at)

const integerBits: Partial<Record<GgufScalarType, number>> = { u8: 8, i8: 8, u16: 16, i16: 16, u32: 32, i32: 32 }

const fits = (type: GgufScalarType, value: GgufScalar): boolean => {
  if (type === 'bool') return typeof value === 'boolean'
  if (type === 'string') return typeof value === 'string' && !/\p{Surrogate}/u.test(value)
  if (type === 'u64') return typeof value === 'bigint' && BigInt.asUintN(64, value) === value
  if (type === 'i64') return typeof value === 'bigint' && BigInt.asIntN(64, value) === value
  if (type === 'f32' || type === 'f64') return typeof value === 'number'
  const bits = integerBits[type]!
  const low = type.startsWith('i') ? -(2 ** (bits - 1)) : 0
  return typeof value === 'number' && Number.isInteger(value) && value >= low && value < low + 2 ** bits
}

const writeNumber = (type: Numeric | 'bool', value: GgufScalar, bytes: Uint8Array, at: number): void => {
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  if (type === 'u64') view.setBigUint64(at, value as bigint, true)
  else if (type === 'i64') view.setBigInt64(at, value as bigint, true)
  else if (type === 'f64') view.setFloat64(at, value as number, true)
  else if (type === 'f32') view.setFloat32(at, value as number, true)
  else for (let i = 0, rest = Number(value); i < ggufScalars[type].bytes; i++, rest >>= 8) bytes[at + i] = rest & 0xff
}

/** A string as GGUF stores it: its length in bytes (u64), then UTF-8. @throws RangeError for a lone surrogate */
export const stringBytes = (text: string): Uint8Array => {
  if (!fits('string', text)) throw new RangeError('a string with a lone surrogate has no UTF-8')
  const encoded = new TextEncoder().encode(text)
  const bytes = new Uint8Array(8 + encoded.length)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(encoded.length), true)
  bytes.set(encoded, 8)
  return bytes
}

/** The bytes of values of one type, back to back. @throws RangeError for a value outside the type */
export const scalarBytes = (type: GgufScalarType, values: readonly GgufScalar[]): Uint8Array => {
  const wrong = values.findIndex(value => !fits(type, value))
  if (wrong >= 0) throw new RangeError(`${String(values[wrong])} is no ${type}`)
  if (type === 'string') return new Uint8Array(Buffer.concat(values.map(value => stringBytes(value as string))))
  const { bytes: width } = ggufScalars[type]
  const bytes = new Uint8Array(values.length * width)
  values.forEach((value, i) => {
    writeNumber(type, value, bytes, i * width)
  })
  return bytes
}
