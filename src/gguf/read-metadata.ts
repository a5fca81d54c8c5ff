/** Keys and values of a GGUF header. */
import { printable } from '../io/printable.ts'
import type { HeaderCursor } from './header-cursor.ts'
import {
  arrayId,
  type GgufMetadata,
  type GgufScalar,
  type GgufScalarType,
  type GgufValue,
  ggufScalars,
  readNumber,
  scalarTypeName,
} from './values.ts'

const maxKeyBytes = 65_535

const scalar = (cursor: HeaderCursor, type: GgufScalarType, at: number, what: string): GgufScalar => {
  if (type === 'bool') {
    const byte = cursor.view.getUint8(at)
    return byte < 2 ? byte === 1 : cursor.fail(`${what} is ${byte}, where a bool is 0 or 1`)
  }
  if (type !== 'string') return readNumber(type, cursor.view, at)
  const start = at + ggufScalars.string.bytes
  return cursor.text(start, start + Number(cursor.view.getBigUint64(at, true)), what)
}

const skipScalar = (cursor: HeaderCursor, type: GgufScalarType): number => {
  if (type !== 'string') return cursor.skip(ggufScalars[type].bytes)
  const start = cursor.at
  cursor.skipString()
  return start
}

/** Every element's place and length is checked now; it is decoded when it is asked for. */
const readArray = (cursor: HeaderCursor): GgufValue => {
  const id = cursor.i32()
  if (id === arrayId) cursor.fail('an array of arrays; llama.cpp has none')
  const of = scalarTypeName(id) ?? cursor.fail(`an array of values of type ${id}, which GGUF does not have`)
  const length = cursor.count('the length of an array')
  const { bytes } = ggufScalars[of]
  if (length > cursor.left / bytes)
    cursor.fail(`an array of ${length} values does not fit into the ${cursor.left} bytes that are left`)
  const start = cursor.at
  if (of === 'string') for (let i = 0; i < length; i++) cursor.skipString()
  else cursor.skip(length * bytes)
  const { where, at: end, view } = cursor
  return {
    ...{ type: 'array', of, length },
    values: () => decodeArray(cursor, of, length, start, where),
    stored: () => new Uint8Array(view.buffer, view.byteOffset + start, end - start),
  }
}

const decodeArray = (cursor: HeaderCursor, of: GgufScalarType, length: number, start: number, where: string) => {
  cursor.where = where
  const values: GgufScalar[] = []
  let at = start
  for (let i = 0; i < length; i++) {
    values.push(scalar(cursor, of, at, `element ${i}`))
    at += ggufScalars[of].bytes + (of === 'string' ? Number(cursor.view.getBigUint64(at, true)) : 0)
  }
  return values
}

const readValue = (cursor: HeaderCursor): GgufValue => {
  const id = cursor.i32()
  if (id === arrayId) return readArray(cursor)
  const type = scalarTypeName(id) ?? cursor.fail(`a value of type ${id}, which GGUF does not have`)
  return { type, value: scalar(cursor, type, skipScalar(cursor, type), 'the value') }
}

/** `count` pairs of key and value, from where the cursor stands. @throws QuantizeError bad-input, naming the key */
export const readMetadata = (cursor: HeaderCursor, count: number): GgufMetadata => {
  const metadata = new Map<string, GgufValue>()
  for (let i = 0; i < count; i++) {
    cursor.where = `key ${i}: `
    const key = cursor.string('its name', maxKeyBytes)
    if (key === '') cursor.fail('its name is empty')
    cursor.where = `key "${printable(key)}": `
    if (metadata.has(key)) cursor.fail('is given twice')
    metadata.set(key, readValue(cursor))
  }
  return metadata
}
