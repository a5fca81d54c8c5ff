import type { Checkpoint, TensorSource } from '../contracts.ts'
import { bytesOf } from '../dtype/bytes.ts'
import { type FloatDtype, toFloat32 } from '../dtype/convert.ts'
import { dtypeBits } from '../dtype/dtype.ts'

/** Factors of a tensor, as far as it has any. */
interface Factors {
  /** Of each row, or of each value of a vector. */
  readonly rows?: Float32Array
  readonly columns?: Float32Array
}

/** A checkpoint some of whose tensors are read transformed, as float32; nothing on disk changes. */
export interface ScaledCheckpoint extends Checkpoint {
  multiplyRows(tensor: string, factors: Float32Array): void
  multiplyColumns(tensor: string, factors: Float32Array): void
  /** Other values instead of the tensor's own. */
  replace(tensor: string, values: Float32Array): void
}

const floatBytes = 4

const product = (a: Float32Array | undefined, b: Float32Array): Float32Array => a?.map((value, i) => value * b[i]) ?? b

/** @param values row-major, of which `first` is the index of the first element */
const multiply = (values: Float32Array, first: number, columnsPerRow: number, { rows, columns }: Factors): void => {
  let i = 0
  while (i < values.length) {
    const [row, column] = [Math.floor((first + i) / columnsPerRow), (first + i) % columnsPerRow]
    const end = Math.min(values.length, i + columnsPerRow - column)
    if (columns) for (let at = i; at < end; at++) values[at] *= columns[column + at - i]
    if (rows) for (let at = i; at < end; at++) values[at] *= rows[row]
    i = end
  }
}

/** Only whole values may be read. */
const asFloats = (source: TensorSource, values: (start: number, end: number) => Float32Array): TensorSource => {
  const bytes = source.shape.reduce((count, size) => count * size, floatBytes)
  return {
    ...source,
    dtype: 'F32',
    bytes,
    read(start = 0, end = bytes, into) {
      const found = values(start / floatBytes, end / floatBytes)
      const stored = bytesOf(found)
      into?.set(stored)
      return into ?? stored
    },
  }
}

export const scaledCheckpoint = (checkpoint: Checkpoint): ScaledCheckpoint => {
  const tensors = new Map(checkpoint.tensors)
  const factors = new Map<string, Factors>()
  const set = (name: string, more: Factors): void => {
    factors.set(name, more)
    const source = checkpoint.tensors.get(name)!
    const size = dtypeBits[source.dtype] / 8
    const inRow = source.shape.length > 1 ? source.shape.slice(1).reduce((count, length) => count * length, 1) : 1
    tensors.set(
      name,
      asFloats(source, (first, end) => {
        const values = toFloat32(source.read(first * size, end * size), source.dtype as FloatDtype)
        multiply(values, first, inRow, factors.get(name)!)
        return values
      }),
    )
  }
  return {
    ...checkpoint,
    tensors,
    multiplyRows: (name, rows) => set(name, { ...factors.get(name), rows: product(factors.get(name)?.rows, rows) }),
    multiplyColumns: (name, columns) =>
      set(name, { ...factors.get(name), columns: product(factors.get(name)?.columns, columns) }),
    replace: (name, values) =>
      void tensors.set(
        name,
        asFloats(checkpoint.tensors.get(name)!, (first, end) => values.slice(first, end)),
      ),
  }
}
