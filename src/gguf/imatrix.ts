/** Importance matrices in files: GGUF and the old form. */
import { basename } from 'node:path'
import { openFile } from '../checkpoint/tensor-source.ts'
import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { printable } from '../io/printable.ts'
import { imatrixDat, readImatrixDat } from './imatrix-dat.ts'
import { type Imatrix, refuse } from './imatrix-entry.ts'
import { type ImatrixGguf, imatrixGguf, readImatrixGguf } from './imatrix-gguf.ts'

export { type Imatrix, type Importances, importancesOf } from './imatrix-entry.ts'
export { type ImatrixGguf, imatrixGguf } from './imatrix-gguf.ts'

const maxFileBytes = 2 ** 30 // a dense model of 405 billion weights has 80 MB

/**
 * Reads an importance matrix in either form, told by its first bytes.
 * @throws QuantizeError bad-input for what llama-quantize does not load, or would be led astray by: values that are NaN, infinite, negative or
 *   above 1e30, names given twice, bytes left over; unsupported for models of experts
 */
export const readImatrix = (path: string, files: Files): Imatrix => {
  const file = openFile(files, path)
  try {
    const { bytes } = files.statOpen(file.descriptor())
    if (bytes > maxFileBytes) refuse(`${printable(path)}:`, `is ${bytes} bytes long; at most ${maxFileBytes} are read`)
    const head = new Uint8Array(Math.min(8, bytes))
    files.readAt(file.descriptor(), head, 0)
    const isGguf = String.fromCharCode(...head.subarray(0, 4)) === 'GGUF'
    return isGguf ? readImatrixGguf(file, files) : readImatrixDat(file, files, head)
  } finally {
    file.close()
  }
}

const whole = ({ plan, data }: ImatrixGguf): Uint8Array => {
  const bytes = new Uint8Array(plan.bytes)
  bytes.set(plan.header)
  for (const { name, offset } of plan.tensors) bytes.set(data.get(name)!, offset)
  return bytes
}

/**
 * Writes the form that the name ends in: .gguf, or .dat for the old one. An older file there is replaced once the new one is whole.
 * What was read is written back exactly, except that the old form counts chunks and names one text.
 * @throws QuantizeError bad-option for another ending; bad-input, unsupported as imatrixGguf and imatrixDat
 */
export const writeImatrix = (path: string, imatrix: Imatrix, files: Files): void => {
  if (path.endsWith('.gguf')) files.writeText(path, whole(imatrixGguf(basename(path), imatrix)))
  else if (path.endsWith('.dat')) files.writeText(path, imatrixDat(basename(path), imatrix))
  else
    throw new QuantizeError(
      'bad-option',
      `${printable(path)}: the name of an importance matrix must end in .gguf, or in .dat for the old form`,
    )
}
