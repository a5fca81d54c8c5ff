import { createHash } from 'node:crypto'
import type { TensorSource } from '../contracts.ts'

/** Whole elements of every dtype. */
const pieceBytes = 4 * 2 ** 20

/** The bytes of a tensor in order, in pieces: memory does not grow with it. A piece is valid until the next. */
export const forEachPiece = (source: TensorSource, visit: (piece: Uint8Array, start: number) => void): void => {
  const buffer = new Uint8Array(Math.min(pieceBytes, source.bytes))
  for (let start = 0; start < source.bytes; start += buffer.byteLength) {
    const end = Math.min(source.bytes, start + buffer.byteLength)
    visit(source.read(start, end, buffer.subarray(0, end - start)), start)
  }
}

/** SHA-256 of a tensor's bytes, lower-case hex. @throws QuantizeError bad-input when the file ends early */
export const hashTensor = (source: TensorSource): string => {
  const hash = createHash('sha256')
  forEachPiece(source, piece => hash.update(piece))
  return hash.digest('hex')
}
