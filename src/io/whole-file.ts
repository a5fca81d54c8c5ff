/** Files taken as a whole, in pieces: memory does not grow with them. */
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { QuantizeError } from '../errors.ts'
import type { Files } from './files.ts'
import { printable } from './printable.ts'

const pieceBytes = 4 * 2 ** 20

/** @throws QuantizeError bad-input when the file ends before the size that it had when it was opened */
const forEachPiece = (path: string, files: Files, visit: (piece: Uint8Array, position: number) => void): number => {
  const descriptor = files.open(path, 'read')
  try {
    const { bytes } = files.statOpen(descriptor)
    const buffer = new Uint8Array(Math.min(pieceBytes, bytes))
    for (let position = 0; position < bytes; ) {
      const piece = buffer.subarray(0, Math.min(buffer.byteLength, bytes - position))
      const length = files.readAt(descriptor, piece, position)
      if (length < piece.byteLength)
        throw new QuantizeError(
          'bad-input',
          `${printable(path)}: ended at byte ${position + length} of ${bytes} while it was read`,
        )
      visit(piece, position)
      position += length
    }
    return bytes
  } finally {
    files.close(descriptor)
  }
}

/** Files of a folder and of the folders in it, as paths within it, with `/`, in name order. */
export const filesIn = (folder: string, files: Files): readonly string[] =>
  files
    .list(folder)
    .flatMap(name =>
      files.stat(join(folder, name))?.kind === 'folder'
        ? filesIn(join(folder, name), files).map(inside => `${name}/${inside}`)
        : [name],
    )

/** Copies a file to a name that is free, and syncs it. */
export const copyFile = (from: string, to: string, files: Files): void => {
  const target = files.open(to, 'create')
  try {
    forEachPiece(from, files, (piece, position) => files.writeAt(target, piece, position))
    files.sync(target)
  } finally {
    files.close(target)
  }
}

/** Size and SHA-256 (lower-case hex) of a file as the disk gives it back. */
export const hashFile = (path: string, files: Files): { readonly bytes: number; readonly sha256: string } => {
  const hash = createHash('sha256')
  const bytes = forEachPiece(path, files, piece => hash.update(piece))
  return { bytes, sha256: hash.digest('hex') }
}
