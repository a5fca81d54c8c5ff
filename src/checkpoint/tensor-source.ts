import type { TensorSource } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { printable } from '../io/printable.ts'
import { add, subtract } from '../io/size.ts'
import { type Span, spansOf } from './row-runs.ts'
import type { HeaderTensor } from './safetensors-header.ts'

const maxPieceBytes = 2 ** 30 // one system call reads less than 2 GiB

/** An open file, whose descriptor must not be used once it is closed. */
export interface OpenFile {
  /** As the user knows it. */
  readonly path: string
  /** @throws Error after close */
  descriptor(): number
  close(): void
}

export const openFile = (files: Files, path: string): OpenFile => {
  let open: number | undefined = files.open(path, 'read')
  return {
    path,
    descriptor() {
      if (open === undefined) throw new Error(`${path} was closed`)
      return open
    },
    close() {
      const descriptor = open
      open = undefined
      if (descriptor !== undefined) files.close(descriptor)
    },
  }
}

const readExactly = (files: Files, file: OpenFile, tensor: HeaderTensor, start: number, into: Uint8Array): void => {
  const descriptor = file.descriptor()
  for (let rest = into, position = start; rest.byteLength > 0; ) {
    const piece = rest.subarray(0, maxPieceBytes)
    const count = files.readAt(descriptor, piece, position)
    if (count < piece.byteLength)
      throw new QuantizeError(
        'bad-input',
        `${printable(file.path)}: ended at byte ${add(position, count, file.path)}, inside tensor "${printable(tensor.name)}", while it was read`,
      )
    position = add(position, count, file.path)
    rest = rest.subarray(count)
  }
}

/** Rows in another order are read at once and put in theirs. */
const readSpan = (
  files: Files,
  file: OpenFile,
  tensor: HeaderTensor,
  { position, length, runs }: Span,
  into: Uint8Array,
): void => {
  const whole = runs.length === 1
  const span = whole ? into.subarray(runs[0].from, runs[0].to) : new Uint8Array(length)
  readExactly(files, file, tensor, position, span)
  if (whole) return
  for (const run of runs) {
    const at = subtract(run.position, position, file.path)
    into.set(span.subarray(at, add(at, subtract(run.to, run.from, file.path), file.path)), run.from)
  }
}

/** A tensor in an open file: lazy positional reads, of any range, of tensors and files of any size. */
export const tensorSource = (files: Files, file: OpenFile, tensor: HeaderTensor): TensorSource => ({
  name: tensor.name,
  dtype: tensor.dtype,
  shape: tensor.shape,
  bytes: tensor.bytes,
  file: file.path,
  read(start = 0, end = tensor.bytes, into) {
    if (!(Number.isInteger(start) && Number.isInteger(end) && 0 <= start && start <= end && end <= tensor.bytes))
      throw new RangeError(`bytes ${start} to ${end} of the ${tensor.bytes} of ${tensor.name}`)
    const bytes = into ?? new Uint8Array(end - start)
    if (bytes.byteLength !== end - start)
      throw new RangeError(`${bytes.byteLength} bytes given for ${end - start} of ${tensor.name}`)
    for (const span of spansOf(tensor, start, end)) readSpan(files, file, tensor, span, bytes)
    return bytes
  },
})
