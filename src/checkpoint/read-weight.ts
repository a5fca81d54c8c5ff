import type { Checkpoint, TensorInfo, TensorSource, WeightView } from '../contracts.ts'
import { isFloat, toFloat32 } from '../dtype/convert.ts'
import { dtypeBits } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'
import { add, multiply, product, subtract, toRange } from '../io/size.ts'

const pieceBytes = 2 ** 24 // read and widened at a time: the stored form of a large tensor is never whole in memory

const find = <T extends TensorInfo>(tensors: ReadonlyMap<string, T>, name: string, where = ''): T => {
  const tensor = tensors.get(name)
  if (tensor === undefined)
    throw new QuantizeError(
      'bad-input',
      `${where}tensor "${printable(name)}" is missing; the model's config.json asks for it`,
    )
  return tensor
}

/** Stored rows that the view takes; of a [] tensor none. */
const rowRange = ({ name, shape }: TensorInfo, { rows }: WeightView): readonly [number, number] =>
  rows === undefined
    ? [0, shape[0]]
    : toRange(rows[0], rows[1], shape[0] ?? 0, `tensor "${printable(name)}" [${shape}]: rows`)

const shapeOf = (tensor: TensorInfo, view: WeightView): number[] => {
  if (view.transpose && tensor.shape.length !== 2)
    throw new QuantizeError(
      'bad-input',
      `tensor "${printable(tensor.name)}" [${tensor.shape}]: only a matrix can be read transposed`,
    )
  if (tensor.shape.length === 0 && view.rows === undefined) return []
  const [start, end] = rowRange(tensor, view)
  const shape = [subtract(end, start, tensor.name), ...tensor.shape.slice(1)]
  return view.transpose ? shape.reverse() : shape
}

/** Shape of a view: the chosen rows of the stored tensor, then transposed if it says so. @throws QuantizeError bad-input */
export const viewShape = (tensors: ReadonlyMap<string, TensorInfo>, view: WeightView): number[] =>
  shapeOf(find(tensors, view.tensor), view)

/** `out.length` elements of the tensor, from element `first` on, widened piece by piece. */
const readFloats = (source: TensorSource, first: number, out: Float32Array): void => {
  const size = dtypeBits[source.dtype] / 8
  const step = pieceBytes / size
  const buffer = new Uint8Array(Math.min(step, out.length) * size)
  let start = multiply(first, size, source.name)
  for (let done = 0; done < out.length; done += step) {
    const part = out.subarray(done, done + step)
    const stored = buffer.subarray(0, part.length * size)
    const end = add(start, stored.byteLength, source.name)
    toFloat32(source.read(start, end, stored), source.dtype, part)
    start = end
  }
}

const tile = 64 // a tile of both matrices stays in the first-level cache

/** [rows, cols] → [cols, rows]. */
const transposed = (data: Float32Array, rows: number, cols: number, out: Float32Array): Float32Array => {
  for (let top = 0; top < rows; top += tile)
    for (let left = 0; left < cols; left += tile)
      for (let row = top; row < Math.min(rows, top + tile); row++)
        for (let col = left; col < Math.min(cols, left + tile); col++) out[col * rows + row] = data[row * cols + col]
  return out
}

/**
 * Reads a view as float32, row-major: for a linear `shape` is [out, in]. `into`, when given, takes the data (its length
 * must be the view's; it may lie in shared memory).
 * @throws QuantizeError bad-input for a missing tensor or rows that it does not have, unsupported for one that is not F16, BF16, F32 or F64
 */
export const readWeight = (
  checkpoint: Checkpoint,
  view: WeightView,
  into?: Float32Array,
): { readonly data: Float32Array; readonly shape: number[] } => {
  const source = find(checkpoint.tensors, view.tensor, `${printable(checkpoint.path)}: `)
  const what = `${printable(source.file)}: tensor "${printable(source.name)}"`
  if (!isFloat(source.dtype))
    throw new QuantizeError('unsupported', `${what} is ${source.dtype}; weights must be F16, BF16, F32 or F64`)
  const shape = shapeOf(source, view)
  const length = product(shape, what)
  const data = into ?? new Float32Array(length)
  if (data.length !== length) throw new RangeError(`${data.length} values given for [${shape}] of ${source.name}`)
  const stored = view.transpose ? new Float32Array(length) : data
  const rowElements = product(source.shape.slice(1), what)
  readFloats(source, multiply(view.rows?.[0] ?? 0, rowElements, what), stored)
  return { data: view.transpose ? transposed(stored, shape[1], shape[0], data) : data, shape }
}
