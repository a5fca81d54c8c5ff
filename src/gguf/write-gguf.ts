/** Writes GGUF version 3, the bytes that gguf-py writes for the same values: header first, every tensor padded. */
import type { HeaderTensor } from '../checkpoint/safetensors-header.ts'
import { partition, type ShardPlan } from '../checkpoint/shard-plan.ts'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'
import { add } from '../io/size.ts'
import { defaultAlignment, ggmlBytes, maxRank, maxTensorNameBytes, padded } from './header.ts'
import { maxHeaderBytes } from './header-cursor.ts'
import { splitKeys, splitName } from './split.ts'
import { type GgmlTypeName, ggmlTypes } from './types.ts'
import { arrayId, type GgufMetadata, type GgufValue, ggufScalars, scalarBytes, single, stringBytes } from './values.ts'

const version = 3

/** A tensor to write, before its data is there. */
export interface GgufTensorPlan {
  readonly name: string
  readonly type: GgmlTypeName
  /** As torch has it. */
  readonly shape: readonly number[]
  /** Its name to the writer, if it is another than in the file. */
  readonly called?: string
  /** Where each row is stored (HeaderTensor.rows). */
  readonly rows?: Int32Array
}

/** A tensor whose values are known: they come with the header, before all others. */
export interface GgufConstant extends GgufTensorPlan {
  readonly data: Uint8Array
}

const integer = (type: 'u32' | 'i32' | 'u64' | 'i64', value: number): Uint8Array =>
  scalarBytes(type, [type.endsWith('64') ? BigInt(value) : value])

const valueBytes = (value: GgufValue): Uint8Array[] => {
  if (value.type !== 'array')
    return [integer('i32', ggufScalars[value.type].id), scalarBytes(value.type, [value.value])]
  const head = [integer('i32', arrayId), integer('i32', ggufScalars[value.of].id), integer('u64', value.length)]
  return [...head, value.stored?.() ?? scalarBytes(value.of, value.values())]
}

const infoBytes = ({ name, type, shape }: GgufTensorPlan, offset: number): Uint8Array[] => [
  stringBytes(name),
  integer('u32', shape.length),
  ...shape.toReversed().map(size => integer('i64', size)),
  integer('i32', ggmlTypes[type].id),
  integer('u64', offset),
]

const refuse = (what: string, problem: string): never => {
  throw new QuantizeError('unsupported', `${what} ${problem}`)
}

/** What llama.cpp would not load. */
const checkTensors = (tensors: readonly GgufTensorPlan[]): void => {
  const names = new Set<string>()
  for (const { name, type, shape } of tensors) {
    const what = `output tensor "${printable(name)}"`
    if (Buffer.byteLength(name) > maxTensorNameBytes)
      refuse(what, `has a name of more than ${maxTensorNameBytes} bytes, which GGUF cannot hold`)
    if (names.has(name)) throw new QuantizeError('bad-input', `${what}: the name comes twice`)
    if (shape.length > maxRank) refuse(what, `has ${shape.length} dimensions; GGUF holds ${maxRank}`)
    const { block } = ggmlTypes[type]
    if ((shape.at(-1) ?? 1) % block !== 0)
      refuse(what, `has rows of ${shape.at(-1)} weights, which are no whole blocks of ${block}, as ${type} needs them`)
    names.add(name)
  }
}

const alignmentOf = (metadata: GgufMetadata): number => {
  const value = metadata.get('general.alignment')
  return value === undefined ? defaultAlignment : Number((value as { readonly value: number }).value)
}

const concatenate = (parts: readonly Uint8Array[], alignment: number, file: string): Uint8Array => {
  const total = parts.reduce((sum, { length }) => sum + length, 0)
  if (total > maxHeaderBytes)
    refuse(printable(file), `would have a header of ${total} bytes; ${maxHeaderBytes} are read`)
  const bytes = new Uint8Array(padded(total, alignment, file))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}

/**
 * Plans one file: header and places, with tensors in the order given, constants before them.
 * @throws QuantizeError unsupported for what GGUF cannot hold; RangeError for a value outside its type
 */
export const planGguf = (
  file: string,
  metadata: GgufMetadata,
  tensors: readonly GgufTensorPlan[],
  constants: readonly GgufConstant[] = [],
): ShardPlan => {
  const all = [...constants, ...tensors]
  checkTensors(all)
  const alignment = alignmentOf(metadata)
  const parts: Uint8Array[] = [Buffer.from('GGUF'), integer('u32', version)]
  parts.push(integer('i64', all.length), integer('i64', metadata.size))
  for (const [key, value] of metadata) parts.push(stringBytes(key), ...valueBytes(value))
  const offsets: number[] = []
  let end = 0
  for (const tensor of all) {
    const bytes = ggmlBytes(tensor.type, tensor.shape, `output tensor "${printable(tensor.name)}"`)
    parts.push(...infoBytes(tensor, end))
    offsets.push(end)
    end = add(end, padded(bytes, alignment, file), file)
  }
  const infos = concatenate(parts, all.length > 0 ? alignment : 1, file)
  const data = constants.map(constant => concatenate([constant.data], alignment, file))
  const header = concatenate([infos, ...data], 1, file)
  const placed = tensors.map(({ name, called = name, type, shape, rows }, i): HeaderTensor => {
    const bytes = ggmlBytes(type, shape, name)
    return { name: called, dtype: type, shape, bytes, offset: offsets[constants.length + i], ...(rows ? { rows } : {}) }
  })
  const moved = placed.map(tensor => ({ ...tensor, offset: add(tensor.offset, infos.length, file) }))
  return { file, header, tensors: moved, bytes: add(infos.length, end, file) }
}

/**
 * As planGguf, in files of at most `fileBytes` bytes of tensor data: `stem`.gguf, or `stem`-00001-of-0000N.gguf as gguf-split makes them
 * (all metadata in the first).
 */
export const planGgufFiles = (
  stem: string,
  metadata: GgufMetadata,
  tensors: readonly GgufTensorPlan[],
  fileBytes: number,
  constants: readonly GgufConstant[] = [],
): ShardPlan[] => {
  checkTensors([...constants, ...tensors])
  const sized = tensors.map(tensor => ({ ...tensor, bytes: ggmlBytes(tensor.type, tensor.shape, tensor.name) }))
  const parts = partition(sized, fileBytes)
  if (parts.length === 1) return [planGguf(`${stem}.gguf`, metadata, tensors, constants)]
  if (parts.length > 65_535) refuse(printable(stem), `would be ${parts.length} files; GGUF counts to 65535`)
  const shared = [...metadata].filter(([key]) => key === 'general.alignment')
  return parts.map((part, index) => {
    const keys = new Map([
      ...(index === 0 ? metadata : shared),
      [splitKeys.no, single('u16', index)],
      [splitKeys.count, single('u16', parts.length)],
      [splitKeys.tensors, single('i32', constants.length + tensors.length)],
    ])
    return planGguf(splitName(stem, index, parts.length), keys, part, index === 0 ? constants : [])
  })
}
