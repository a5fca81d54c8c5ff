import type { TensorInfo } from '../contracts.ts'
import { type Dtype, isDtype } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { printable } from '../io/printable.ts'
import { add, subtract, tensorBytes } from '../io/size.ts'
import { explainForeign } from './foreign-file.ts'
import { JsonScanner } from './json-scanner.ts'

/** The header of safetensors 0.8 (format: huggingface/safetensors, safetensors/src/tensor.rs). */

export const maxHeaderBytes = 100_000_000 // the official parser's limit
const lengthBytes = 8 // u64, little-endian, before the header
export const maxTensors = 1_000_000 // ten times the largest published model, all experts counted
const maxRank = 64
export const maxNameBytes = 65_536
const maxMetadataBytes = maxHeaderBytes

export interface HeaderTensor extends TensorInfo {
  /** First byte of its data, from the start of the file. */
  readonly offset: number
  /** [rows]: where each row of the tensor is stored, among its rows; absent: in order. (GGUF keeps those of q and k otherwise than transformers.) */
  readonly rows?: Int32Array
}

export interface SafetensorsHeader {
  /** In the order of their data (then name, where tensors are empty). */
  readonly tensors: readonly HeaderTensor[]
  readonly metadata: ReadonlyMap<string, string>
}

/** An entry as written; offsets count from the end of the header. */
interface Entry {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly begin: number
  readonly end: number
}

const refuse = (file: string, problem: string): never => {
  throw new QuantizeError('bad-input', `${printable(file)}: ${problem}`)
}

const readShape = (scanner: JsonScanner): number[] => {
  const shape: number[] = []
  scanner.array(() => {
    if (shape.length === maxRank) scanner.fail(`a shape of more than ${maxRank} dimensions`)
    shape.push(scanner.integer())
  })
  return shape
}

const readOffsets = (scanner: JsonScanner): readonly [number, number] => {
  const offsets: number[] = []
  const start = scanner.at
  scanner.array(() => {
    if (offsets.length === 2) scanner.fail('data_offsets of more than two numbers')
    offsets.push(scanner.integer())
  })
  if (offsets.length < 2) scanner.fail('data_offsets of less than two numbers', start)
  return [offsets[0], offsets[1]]
}

const readDtype = (scanner: JsonScanner): Dtype => {
  const start = scanner.at
  const dtype = scanner.string(maxNameBytes)
  return isDtype(dtype) ? dtype : scanner.fail(`"${printable(dtype)}" is no dtype of safetensors`, start)
}

/** One tensor's object: dtype, shape and data_offsets once each; other keys are allowed and dropped. */
const readEntry = (scanner: JsonScanner, name: string): Entry => {
  const start = scanner.at
  let dtype: Dtype | undefined
  let shape: readonly number[] | undefined
  let offsets: readonly [number, number] | undefined
  const once = (known: unknown, key: string, at: number): void => {
    if (known !== undefined) scanner.fail(`${key} is given twice`, at)
  }
  scanner.object((key, at) => {
    if (key === 'dtype') {
      once(dtype, key, at)
      dtype = readDtype(scanner)
    } else if (key === 'shape') {
      once(shape, key, at)
      shape = readShape(scanner)
    } else if (key === 'data_offsets') {
      once(offsets, key, at)
      offsets = readOffsets(scanner)
    } else scanner.skip()
  }, maxNameBytes)
  if (dtype === undefined) return scanner.fail('dtype is missing', start)
  if (shape === undefined) return scanner.fail('shape is missing', start)
  if (offsets === undefined) return scanner.fail('data_offsets is missing', start)
  return { name, dtype, shape, begin: offsets[0], end: offsets[1] }
}

const readMetadata = (scanner: JsonScanner): Map<string, string> => {
  const metadata = new Map<string, string>()
  if (scanner.acceptNull()) return metadata
  scanner.object((key, at) => {
    if (metadata.has(key)) scanner.fail(`"${printable(key)}" is given twice in __metadata__`, at)
    metadata.set(key, scanner.string(maxMetadataBytes))
  }, maxNameBytes)
  return metadata
}

interface Parsed {
  readonly entries: ReadonlyMap<string, Entry>
  readonly metadata: ReadonlyMap<string, string>
}

const readJson = (json: Uint8Array, file: string): Parsed => {
  const entries = new Map<string, Entry>()
  let metadata: Map<string, string> | undefined
  let tensor: string | undefined
  const scanner = new JsonScanner(json, (problem, byte) => {
    const where = tensor === undefined ? '' : `, tensor "${printable(tensor)}"`
    return refuse(file, `header byte ${add(lengthBytes, byte, file)}${where}: ${problem}`)
  })
  if (json[0] !== 0x7b) scanner.fail("the header does not begin with '{'", 0)
  scanner.object((name, at) => {
    if (name === '__metadata__') {
      if (metadata !== undefined) scanner.fail('__metadata__ is given twice', at)
      metadata = readMetadata(scanner)
      return
    }
    tensor = name
    if (entries.has(name)) scanner.fail('the name is given twice', at)
    if (entries.size === maxTensors) scanner.fail(`more than ${maxTensors} tensors`, at)
    entries.set(name, readEntry(scanner, name))
    tensor = undefined
  }, maxNameBytes)
  scanner.end()
  return { entries, metadata: metadata ?? new Map() }
}

const compareText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)

const byOffset = (a: Entry, b: Entry): number => a.begin - b.begin || a.end - b.end || compareText(a.name, b.name)

/** Checks that the entries, sorted, tile the data from 0 without hole or overlap; returns where it ends. */
const checkTiling = (sorted: readonly Entry[], file: string): number => {
  let expected = 0
  for (const { name, dtype, shape, begin, end } of sorted) {
    const where = `${printable(file)}: tensor "${printable(name)}"`
    const bytes = tensorBytes(shape, dtype, `${where}: shape [${shape}]`)
    const stored = subtract(end, begin, `${where}: data_offsets`)
    if (stored !== bytes)
      refuse(
        file,
        `tensor "${printable(name)}": ${dtype} [${shape}] takes ${bytes} bytes, its data_offsets give ${stored}`,
      )
    if (begin > expected)
      refuse(file, `tensor "${printable(name)}": begins at data byte ${begin}, a hole after byte ${expected}`)
    if (begin < expected)
      refuse(
        file,
        `tensor "${printable(name)}": begins at data byte ${begin}, but the tensor before it ends at ${expected}`,
      )
    expected = end
  }
  return expected
}

const checkLength = (expected: number, fileBytes: number, file: string): void => {
  if (fileBytes < expected)
    refuse(file, `is cut off: ${fileBytes} bytes long, its header describes ${expected}; copy or download it again`)
  if (fileBytes > expected)
    refuse(
      file,
      `has ${subtract(fileBytes, expected, file)} bytes after the last tensor, which ends at byte ${expected}`,
    )
}

/**
 * Checks a whole header, given its JSON bytes and the length of the file around it, against every rule of the official
 * parser, and stricter where that one lets readers disagree: a name, or a key of __metadata__, given twice is refused.
 * @throws QuantizeError bad-input, naming the file, the tensor and the byte
 */
export const parseHeader = (json: Uint8Array, fileBytes: number, file: string): SafetensorsHeader => {
  const { entries, metadata } = readJson(json, file)
  const sorted = [...entries.values()].sort(byOffset)
  const dataStart = add(lengthBytes, json.byteLength, printable(file))
  checkLength(add(dataStart, checkTiling(sorted, file), printable(file)), fileBytes, file)
  const tensors = sorted.map(({ name, dtype, shape, begin, end }) => ({
    name,
    dtype,
    shape,
    bytes: subtract(end, begin, name),
    offset: add(dataStart, begin, name),
  }))
  return { tensors, metadata }
}

/** The header's length as the file claims it, checked against the limit and the file before a byte is allocated. */
const readLength = (files: Files, descriptor: number, fileBytes: number, file: string): number => {
  const head = new Uint8Array(lengthBytes)
  const count = files.readAt(descriptor, head, 0)
  if (count < lengthBytes) refuse(file, `is ${count} bytes long, too short for a safetensors file`)
  const claimed = new DataView(head.buffer).getBigUint64(0, true)
  if (claimed > maxHeaderBytes)
    refuse(file, explainForeign(head) ?? `bytes 0-7 claim a header of ${claimed} bytes; the limit is ${maxHeaderBytes}`)
  const length = Number(claimed)
  if (add(lengthBytes, length, file) > fileBytes)
    refuse(
      file,
      explainForeign(head) ??
        `is cut off: its header of ${length} bytes ends beyond the file's ${fileBytes} bytes; copy or download it again`,
    )
  return length
}

/** Reads and checks the header of an open file; only the header's own bytes are read or allocated. */
export const readHeader = (files: Files, descriptor: number, file: string): SafetensorsHeader => {
  const fileBytes = files.statOpen(descriptor).bytes
  const json = new Uint8Array(readLength(files, descriptor, fileBytes, file))
  const count = files.readAt(descriptor, json, lengthBytes)
  if (count < json.byteLength)
    refuse(file, `ended at byte ${add(lengthBytes, count, file)}, inside its header, while it was read`)
  return parseHeader(json, fileBytes, file)
}
