/**
 * The old form of importance matrices (.dat), little-endian:
 * i32 entries; of each: i32 bytes of its name, the name, i32 chunks, i32 columns, f32 mean of squares × chunks for each column;
 * then, not in the oldest files: i32 chunks of all texts, i32 bytes of a text's name, the name.
 */
import { explainForeign } from '../checkpoint/foreign-file.ts'
import type { OpenFile } from '../checkpoint/tensor-source.ts'
import { fromFloat32, toFloat32 } from '../dtype/convert.ts'
import type { Files } from '../io/files.ts'
import { printable } from '../io/printable.ts'
import { toSize } from '../io/size.ts'
import { maxTensorNameBytes, maxTensors } from './header.ts'
import {
  checkName,
  entryOf,
  type Imatrix,
  type Importances,
  importancesOf,
  refuse,
  sortedEntries,
  sumsOf,
} from './imatrix-entry.ts'
import { scalarBytes } from './values.ts'

const leastEntryBytes = 17 // a name of one byte, one column
const maxCount = 2 ** 31 - 1

/** An open file, read from its start. Nothing is allocated for bytes that it does not have. */
interface Cursor {
  readonly left: number
  take(count: number, what: string): Uint8Array
  /** An i32 that counts something. */
  count(what: string): number
  text(bytes: number, what: string): string
}

const cursorOf = (file: OpenFile, files: Files): Cursor => {
  const { bytes: fileBytes } = files.statOpen(file.descriptor())
  let at = 0
  const where = (what: string): string => `${printable(file.path)}: ${what}`
  const take: Cursor['take'] = (count, what) => {
    if (count > fileBytes - at)
      refuse(where(what), `ends beyond the file, which is ${fileBytes} bytes long: copy or download it again`)
    const bytes = new Uint8Array(count)
    if (files.readAt(file.descriptor(), bytes, at) < count) refuse(where(what), 'became shorter while it was read')
    at += count
    return bytes
  }
  return {
    get left() {
      return fileBytes - at
    },
    take,
    count: what => toSize(new DataView(take(4, what).buffer).getInt32(0, true), where(what)),
    text(count, what) {
      const bytes = take(count, what)
      try {
        return decoder.decode(bytes)
      } catch {
        return refuse(where(what), 'is not UTF-8')
      }
    },
  }
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** How many entries follow; says what the file is where it is none of ours. */
const readEntryCount = (cursor: Cursor, path: string, head: Uint8Array): number => {
  const foreign = explainForeign(head)
  const refuseFile = (problem: string): never =>
    refuse(`${printable(path)}:`, foreign ?? `is no importance matrix: ${problem}`)
  if (cursor.left < 4 + leastEntryBytes) return refuseFile(`it is ${cursor.left} bytes long`)
  const count = new DataView(cursor.take(4, 'the number of entries').buffer).getInt32(0, true)
  if (count < 1 || count > maxTensors) return refuseFile(`it claims ${count} entries`)
  return count * leastEntryBytes <= cursor.left ? count : refuseFile(`it claims ${count} entries, which do not fit`)
}

const readName = (cursor: Cursor, index: number): string => {
  const what = `the name of entry ${index}`
  return cursor.text(cursor.count(`the length of ${what}`), what)
}

const readEntry = (cursor: Cursor, name: string, path: string): Importances => {
  const what = entryOf(path, name)
  const label = `entry "${printable(name)}"`
  if (Buffer.byteLength(name) > maxTensorNameBytes)
    refuse(what, `has a name of more than ${maxTensorNameBytes} bytes, which no tensor of llama.cpp has`)
  checkName(name, what)
  const count = cursor.count(`${label}: its number of chunks`)
  const columns = cursor.count(`${label}: its number of columns`)
  if (columns === 0) refuse(what, 'has no columns')
  const sums = toFloat32(cursor.take(4 * columns, `${label}: the last of its ${columns} columns`), 'F32')
  // llama-quantize takes sums without a count as means
  return { ...importancesOf(sums, count || 1, what), count }
}

const readTail = (cursor: Cursor): Pick<Imatrix, 'chunks' | 'datasets'> => {
  if (cursor.left === 0) return { chunks: 0, datasets: [] }
  const chunks = cursor.count('the number of chunks')
  const dataset = cursor.text(cursor.count('the length of the name of the text'), 'the name of the text')
  return { chunks, datasets: dataset === '' ? [] : [dataset] }
}

/** @throws QuantizeError bad-input; unsupported for several experts, which only the name tells */
export const readImatrixDat = (file: OpenFile, files: Files, head: Uint8Array): Imatrix => {
  const cursor = cursorOf(file, files)
  const count = readEntryCount(cursor, file.path, head)
  const entries = new Map<string, Importances>()
  for (let index = 0; index < count; index++) {
    const name = readName(cursor, index)
    if (entries.has(name)) refuse(entryOf(file.path, name), 'is given twice')
    entries.set(name, readEntry(cursor, name, file.path))
  }
  const tail = readTail(cursor)
  if (cursor.left > 0) refuse(`${printable(file.path)}:`, `has ${cursor.left} bytes after the name of the text`)
  return { entries, ...tail, chunkSize: undefined }
}

/** Rounded up, as llama-imatrix counts chunks. */
const chunksOf = (count: number, chunkSize: number | undefined): number =>
  chunkSize ? Math.ceil(count / chunkSize) : count

const textBytes = (text: string): Uint8Array[] => {
  const bytes = Buffer.from(text)
  return [scalarBytes('i32', [bytes.length]), bytes]
}

/**
 * The whole file. Tokens become chunks; of several texts the last is named, as by llama-imatrix.
 * @throws QuantizeError bad-input for values that no reader takes; unsupported for several experts, longer names and larger counts
 */
export const imatrixDat = (file: string, imatrix: Imatrix): Uint8Array => {
  const entries = sortedEntries(imatrix, file)
  const parts: Uint8Array[] = [scalarBytes('i32', [entries.length])]
  const i32 = (value: number, what: string): void => {
    if (value > maxCount) refuse(what, `has a count of ${value}; this form counts to ${maxCount}`, 'unsupported')
    parts.push(scalarBytes('i32', [value]))
  }
  for (const [name, importances] of entries) {
    const what = entryOf(file, name)
    if (Buffer.byteLength(name) > maxTensorNameBytes)
      refuse(what, `has a name of more than ${maxTensorNameBytes} bytes`, 'unsupported')
    const chunks = chunksOf(importances.count, imatrix.chunkSize)
    parts.push(...textBytes(name))
    i32(chunks, what)
    i32(importances.values.length, what)
    parts.push(fromFloat32(sumsOf(importances, chunks || 1, what), 'F32'))
  }
  i32(toSize(imatrix.chunks, `${printable(file)}: the number of chunks`), `${printable(file)}:`)
  parts.push(...textBytes(imatrix.datasets.at(-1) ?? ''))
  return new Uint8Array(Buffer.concat(parts))
}
