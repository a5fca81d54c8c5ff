import { basename, dirname } from 'node:path'
import { type OpenFile, openFile, tensorSource } from '../checkpoint/tensor-source.ts'
import type { TensorSource } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { checkedMember } from '../io/member.ts'
import { printable } from '../io/printable.ts'
import { type GgufHeader, type GgufTensor, readGgufHeader } from './header.ts'
import { checkSplit, splitName, splitOf } from './split.ts'
import type { GgufMetadata } from './values.ts'

/** A tensor of a file on disk. No byte of it is read before `read`. */
export interface GgufSource extends GgufTensor {
  /** The file that holds it, as the user knows it. */
  readonly file: string
  /** Bytes [start, end) of the tensor (default: all), into `into` when given. @throws QuantizeError bad-input when the file ends early */
  read(start?: number, end?: number, into?: Uint8Array): Uint8Array
  /** The tensor under another name. @param rows where each of its rows is stored (HeaderTensor.rows) */
  as(name: string, rows?: Int32Array): TensorSource
}

export interface GgufFile {
  readonly path: string
  /** Basenames, in order: one, or all parts of a split file. */
  readonly files: readonly string[]
  /** Of the first part, which has it all. */
  readonly metadata: GgufMetadata
  /** By name, in the order of (part, offset). */
  readonly tensors: ReadonlyMap<string, GgufSource>
  close(): void
}

interface Part {
  readonly file: OpenFile
  readonly header: GgufHeader
}

const sourceOf = (files: Files, file: OpenFile, tensor: GgufTensor): GgufSource => {
  const { type, ...stored } = tensor
  const as: GgufSource['as'] = (name, rows) => tensorSource(files, file, { ...stored, name, dtype: type, rows })
  return { ...tensor, file: file.path, read: as(tensor.name).read, as }
}

const gather = (files: Files, parts: readonly Part[]): Map<string, GgufSource> => {
  const tensors = new Map<string, GgufSource>()
  for (const { file, header } of parts)
    for (const tensor of header.tensors) {
      const other = tensors.get(tensor.name)
      if (other !== undefined)
        throw new QuantizeError(
          'bad-input',
          `${printable(file.path)}: tensor "${printable(tensor.name)}" is also in ${printable(other.file)}`,
        )
      tensors.set(tensor.name, sourceOf(files, file, tensor))
    }
  return tensors
}

/**
 * Opens a GGUF file, and beside the first part of a split one (`name-00001-of-00003.gguf`) all others. Headers are read and checked whole;
 * no tensor data is. The descriptors stay open until `close`.
 * @throws QuantizeError as readGgufHeader; bad-input when a part is missing, not the first, or contradicts the first
 */
export const openGguf = (path: string, files: Files): GgufFile => {
  const parts: Part[] = []
  const opened: OpenFile[] = []
  const close = (): void => {
    for (const file of opened) file.close()
  }
  const openPart = (part: string): Part => {
    const file = openFile(files, part)
    opened.push(file)
    return { file, header: readGgufHeader(files, file.descriptor(), part) }
  }
  try {
    parts.push(openPart(path))
    const split = splitOf(parts[0].header.metadata, path)
    for (let index = 1; index < split.count; index++)
      parts.push(openPart(checkedMember(files, dirname(path), splitName(split.stem, index, split.count))))
    const headers = parts.map(({ file, header }) => ({ path: file.path, header }))
    if (split.count > 1) checkSplit(split, headers)
    return {
      path,
      files: parts.map(({ file }) => basename(file.path)),
      metadata: parts[0].header.metadata,
      tensors: gather(files, parts),
      close,
    }
  } catch (error) {
    close()
    throw error
  }
}
