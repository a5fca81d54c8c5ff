/** The header of GGUF (ggml/src/gguf.cpp), every number checked before it is used, and as strictly as llama.cpp reads it. */
import { explainForeign } from '../checkpoint/foreign-file.ts'
import type { Files } from '../io/files.ts'
import { printable } from '../io/printable.ts'
import { add, multiply, product } from '../io/size.ts'
import { HeaderCursor } from './header-cursor.ts'
import { readMetadata } from './read-metadata.ts'
import { type GgmlTypeName, ggmlTypeName, ggmlTypes } from './types.ts'
import type { GgufMetadata } from './values.ts'

export const maxTensors = 1_000_000
const maxKeys = 100_000 // published files have about a hundred
export const maxTensorNameBytes = 63 // GGML_MAX_NAME is 64, with a zero at the end
export const maxRank = 4 // GGML_MAX_DIMS
export const defaultAlignment = 32
const maxAlignment = 2 ** 20
const infoBytes = 24 // the least that a tensor takes: length of its name, rank, type, offset
const pairBytes = 13 // length of the key, type, a value of one byte

export interface GgufTensor {
  readonly name: string
  readonly type: GgmlTypeName
  /** As torch has it: rows first. The last dimension holds whole blocks. */
  readonly shape: readonly number[]
  readonly bytes: number
  /** Of its first byte, from the start of the file. */
  readonly offset: number
}

export interface GgufHeader {
  readonly version: number
  readonly alignment: number
  readonly metadata: GgufMetadata
  /** In the order of their data. */
  readonly tensors: readonly GgufTensor[]
}

/** The next multiple of `alignment`. */
export const padded = (bytes: number, alignment: number, what: string): number =>
  multiply(Math.ceil(bytes / alignment), alignment, what)

/** Bytes of a tensor. @throws QuantizeError bad-input unless rows hold whole blocks */
export const ggmlBytes = (type: GgmlTypeName, shape: readonly number[], what: string): number => {
  const { bytes, block } = ggmlTypes[type]
  return multiply(product(shape, what) / block, bytes, what)
}

const checkVersion = (cursor: HeaderCursor): number => {
  const start = cursor.skip(Math.min(8, cursor.fileBytes))
  const head = new Uint8Array(cursor.view.buffer, start, cursor.at)
  if (head.length < 8 || String.fromCharCode(...head.subarray(0, 4)) !== 'GGUF')
    cursor.fail(`does not begin with "GGUF"; it ${(head.length === 8 && explainForeign(head)) || 'is no GGUF file'}`)
  const version = cursor.view.getUint32(start + 4, true)
  if (version % 65_536 === 0 && version > 0)
    cursor.fail(
      'is big-endian GGUF; only little-endian is read: convert it with gguf-py (gguf-convert-endian)',
      'unsupported',
    )
  if (version !== 2 && version !== 3)
    cursor.fail(`is GGUF version ${version}; versions 2 and 3 are read`, version === 0 ? 'bad-input' : 'unsupported')
  return version
}

const alignmentKey = 'general.alignment'

const alignmentOf = (cursor: HeaderCursor, metadata: GgufMetadata): number => {
  const found = metadata.get(alignmentKey)
  if (found === undefined) return defaultAlignment
  cursor.where = `key "${alignmentKey}": `
  if (found.type !== 'u32') return cursor.fail(`is of type ${found.type}, where u32 must stand`)
  const alignment = found.value as number
  const isPower = alignment > 0 && Number.isInteger(Math.log2(alignment))
  if (!isPower || alignment > maxAlignment) cursor.fail(`${alignment} is no power of two from 1 to ${maxAlignment}`)
  return alignment
}

/** As the file lists it: the dimension that lies together first. */
const readShape = (cursor: HeaderCursor): readonly number[] => {
  const rank = cursor.u32()
  if (rank > maxRank) cursor.fail(`has ${rank} dimensions; ggml has at most ${maxRank}`)
  return Array.from({ length: rank }, (_, i) => cursor.signedCount(`dimension ${i}`))
}

const readType = (cursor: HeaderCursor, [columns = 1]: readonly number[]): GgmlTypeName => {
  const id = cursor.i32()
  const type = ggmlTypeName(id) ?? cursor.fail(`is of ggml type ${id}, which is not known`, 'unsupported')
  const { block } = ggmlTypes[type]
  if (columns % block !== 0)
    cursor.fail(`a row of ${columns} weights is no whole blocks of ${block}, as ${type} has them`)
  return type
}

/** A tensor; its offset still counts from the start of the data. */
const readInfo = (cursor: HeaderCursor, index: number, file: string): GgufTensor => {
  cursor.where = `tensor ${index}: `
  const name = cursor.string('its name', maxTensorNameBytes)
  cursor.where = `tensor "${printable(name)}": `
  const dimensions = readShape(cursor)
  const type = readType(cursor, dimensions)
  const shape = dimensions.toReversed()
  const bytes = ggmlBytes(type, shape, `${printable(file)}: ${cursor.where}its size`)
  return { name, type, shape, bytes, offset: cursor.count('its offset') }
}

const readInfos = (cursor: HeaderCursor, count: number, alignment: number, file: string): GgufTensor[] => {
  const infos: GgufTensor[] = []
  const names = new Set<string>()
  let end = 0
  for (let i = 0; i < count; i++) {
    const info = readInfo(cursor, i, file)
    if (names.has(info.name)) cursor.fail('the name is given twice')
    if (info.offset !== end)
      cursor.fail(`begins at data byte ${info.offset}, where byte ${end} comes after the tensors before it`)
    names.add(info.name)
    infos.push(info)
    end = add(end, padded(info.bytes, alignment, file), `${printable(file)}: ${cursor.where}its end`)
  }
  return infos
}

const place = (cursor: HeaderCursor, infos: readonly GgufTensor[], alignment: number, file: string): GgufTensor[] => {
  const dataStart = padded(cursor.at, alignment, file)
  return infos.map(info => {
    cursor.where = `tensor "${printable(info.name)}": `
    const offset = add(dataStart, info.offset, file)
    const end = add(offset, info.bytes, `${printable(file)}: ${cursor.where}its end`)
    if (end > cursor.fileBytes)
      cursor.fail(`ends at byte ${end}, but the file is ${cursor.fileBytes} bytes long: copy or download it again`)
    return { ...info, offset }
  })
}

const readCount = (cursor: HeaderCursor, what: string, most: number, leastBytes: number): number => {
  const count = cursor.signedCount(`the number of ${what}`)
  if (count > most) cursor.fail(`it claims ${count} ${what}; at most ${most} are read`)
  if (count > cursor.left / leastBytes)
    cursor.fail(`it claims ${count} ${what}, which do not fit into the ${cursor.left} bytes that are left`)
  return count
}

/**
 * Reads and checks the header of an open file. Arrays stay encoded, in as much memory as the header takes, and outlive the descriptor.
 * @param file as the user knows it, for messages
 * @throws QuantizeError unsupported: version 1, big-endian, a ggml type that is not known; bad-input: whatever else llama.cpp would not
 *   load, naming the key or tensor
 */
export const readGgufHeader = (files: Files, descriptor: number, file: string): GgufHeader => {
  const cursor = new HeaderCursor(files, descriptor, file)
  const version = checkVersion(cursor)
  const tensorCount = readCount(cursor, 'tensors', maxTensors, infoBytes)
  const metadata = readMetadata(cursor, readCount(cursor, 'keys', maxKeys, pairBytes))
  const alignment = alignmentOf(cursor, metadata)
  const infos = readInfos(cursor, tensorCount, alignment, file)
  return { version, alignment, metadata, tensors: place(cursor, infos, alignment, file) }
}
