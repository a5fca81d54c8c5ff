/** Files taken as a whole, in pieces: memory does not grow with them. */
import { createHash } from 'node:crypto'
import type { Files } from './files.ts'

const pieceBytes = 4 * 2 ** 20

const forEachPiece = (path: string, files: Files, visit: (piece: Uint8Array, position: number) => void): number => {
  const descriptor = files.open(path, 'read')
  try {
    const buffer = new Uint8Array(pieceBytes)
    let position = 0
    for (;;) {
      const length = files.readAt(descriptor, buffer, position)
      if (length === 0) return position
      visit(buffer.subarray(0, length), position)
      position += length
    }
  } finally {
    files.close(descriptor)
  }
}

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
