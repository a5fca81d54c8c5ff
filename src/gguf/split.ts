/** Models in several files (llama.cpp, tools/gguf-split): the first has all metadata, each says which part it is. */
import { basename } from 'node:path'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'
import { add } from '../io/size.ts'
import type { GgufHeader } from './header.ts'
import { openMetadata } from './metadata.ts'
import type { GgufMetadata } from './values.ts'

export const splitKeys = { no: 'split.no', count: 'split.count', tensors: 'split.tensors.count' } as const

export interface Split {
  /** The file name without number and extension. */
  readonly stem: string
  /** Files; 1: not split. */
  readonly count: number
}

const digits = (number: number): string => String(number).padStart(5, '0')

/** @param index from 0 */
export const splitName = (stem: string, index: number, count: number): string =>
  `${stem}-${digits(index + 1)}-of-${digits(count)}.gguf`

const refuse = (path: string, problem: string): never => {
  throw new QuantizeError('bad-input', `${printable(path)}: ${problem}`)
}

/**
 * What the first file says of the others.
 * @throws QuantizeError bad-input for a part that is not the first, or is not named as llama.cpp names it
 */
export const splitOf = (metadata: GgufMetadata, path: string): Split => {
  const keys = openMetadata(metadata, path)
  const count = keys.number(splitKeys.count, 'u16', 0)
  if (count < 2) return { stem: '', count: 1 }
  const name = basename(path)
  const no = keys.number(splitKeys.no, 'u16')
  const stem = name.replace(/-\d+-of-\d+\.gguf$/, '')
  if (no !== 0) refuse(path, `is part ${no + 1} of ${count}; name the first, ${printable(splitName(stem, 0, count))}`)
  if (name !== splitName(stem, 0, count))
    refuse(
      path,
      `is the first of ${count} parts; its name must end in ${splitName('', 0, count)}, as llama.cpp looks for them`,
    )
  return { stem, count }
}

/** Every part must say its own number and the same count, and together they must have the tensors that the first counts. */
export const checkSplit = (
  { count }: Split,
  parts: readonly { readonly path: string; readonly header: GgufHeader }[],
): void => {
  let tensors = 0
  parts.forEach(({ path, header }, index) => {
    const keys = openMetadata(header.metadata, path)
    const no = keys.number(splitKeys.no, 'u16')
    const found = keys.number(splitKeys.count, 'u16')
    if (no !== index || found !== count)
      refuse(path, `says that it is part ${no + 1} of ${found}, where part ${index + 1} of ${count} must stand`)
    tensors = add(tensors, header.tensors.length, path)
  })
  const [{ path, header }] = parts
  const claimed = openMetadata(header.metadata, path).number(splitKeys.tensors, 'i32')
  if (claimed !== tensors)
    refuse(path, `${splitKeys.tensors} is ${claimed}, but its ${count} parts have ${tensors} tensors`)
}
