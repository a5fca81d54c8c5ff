/** Two checkpoints tensor by tensor: how far the values of `b` are from those of `a`. Quantized weights are compared decoded. */
import { forEachPiece } from './checkpoint/tensor-pieces.ts'
import type { Checkpoint, TensorSource } from './contracts.ts'
import { isDecoded } from './decoded-checkpoint.ts'
import { isFloat, toFloat32 } from './dtype/convert.ts'
import { dtypeBits } from './dtype/dtype.ts'
import { moduleOf } from './format/stored.ts'
import { decibels } from './report/measure.ts'

/** How one side holds a tensor. */
export interface Held {
  /** A dtype; of quantized weights format, grid and bits: `gptq int4`. */
  readonly stored: string
  readonly shape: readonly number[]
}

interface Compared {
  readonly name: string
  readonly a: Held
  readonly b: Held
}

/** Floating-point values, as float32. Places where both hold the same infinity or NaN, or where `notFinite` counts, are in no other figure. */
export interface ValueComparison extends Compared {
  readonly by: 'values'
  /** 10 log10(Σ a² / Σ (a − b)²), in dB; null when nothing differs, or all of `a` is 0. */
  readonly sqnrDb: number | null
  /** max |a − b|. */
  readonly maxAbsError: number
  /** Σ ab / √(Σ a² Σ b²); null when all of `a` or of `b` is 0. */
  readonly cosine: number | null
  /** Places where one is NaN or infinite and the other differs. */
  readonly notFinite: number
}

/** Integers, and floats too narrow to be weights. */
export interface ByteComparison extends Compared {
  readonly by: 'bytes'
  readonly differingBytes: number
}

/** Not to be compared: shapes or kinds of dtype differ. */
export interface Mismatch extends Compared {
  readonly by: 'none'
  readonly differs: 'shape' | 'dtype'
}

export type TensorComparison = ValueComparison | ByteComparison | Mismatch

export interface Comparison {
  /** Tensors that are in both, in the order of `a`. A quantized module is `<module>.weight`. */
  readonly tensors: readonly TensorComparison[]
  readonly onlyInA: readonly string[]
  readonly onlyInB: readonly string[]
  /** Over all values: SQNR as above, and the largest error. */
  readonly sqnrDb: number | null
  readonly maxAbsError: number
}

interface Sums {
  /** Σ a², Σ b², Σ ab, Σ (a − b)², and the largest (a − b)². */
  readonly a: number
  readonly b: number
  readonly product: number
  readonly error: number
  readonly largest: number
  readonly notFinite: number
}

const pieceValues = 2 ** 20

const addPiece = (sums: Sums, from: Float32Array, to: Float32Array): Sums => {
  let { a, b, product, error, largest, notFinite } = sums
  for (let i = 0; i < from.length; i++) {
    const x = from[i]
    const y = to[i]
    const difference = x - y
    if (Number.isFinite(difference)) {
      a += x * x
      b += y * y
      product += x * y
      error += difference * difference
      largest = Math.max(largest, Math.abs(difference))
    } else if (!Object.is(x, y)) notFinite++
  }
  return { a, b, product, error, largest, notFinite }
}

/** Values [start, end) of a tensor. */
const valuesOf = (source: TensorSource, start: number, end: number): Float32Array => {
  const size = dtypeBits[source.dtype] / 8
  return toFloat32(source.read(start * size, end * size), source.dtype)
}

const none: Sums = { a: 0, b: 0, product: 0, error: 0, largest: 0, notFinite: 0 }

/** In pieces: memory does not grow with the tensors, but for what decoding one takes. */
const sumsOf = (a: TensorSource, b: TensorSource): Sums => {
  const count = a.bytes / (dtypeBits[a.dtype] / 8)
  let sums = none
  for (let start = 0; start < count; start += pieceValues) {
    const end = Math.min(count, start + pieceValues)
    sums = addPiece(sums, valuesOf(a, start, end), valuesOf(b, start, end))
  }
  return sums
}

const differingBytes = (a: TensorSource, b: TensorSource): number => {
  let count = 0
  forEachPiece(a, (piece, start) => {
    const other = b.read(start, start + piece.byteLength)
    for (let i = 0; i < piece.byteLength; i++) if (piece[i] !== other[i]) count++
  })
  return count
}

const held = (checkpoint: Checkpoint, { name, dtype, shape }: TensorSource): Held => {
  const scheme = isDecoded(checkpoint) ? checkpoint.schemes.get(moduleOf(name)) : undefined
  if (!scheme || !isDecoded(checkpoint)) return { stored: dtype, shape }
  return { stored: `${checkpoint.format.name} ${scheme.grid === 'int' ? `int${scheme.bits}` : scheme.grid}`, shape }
}

const cosineOf = ({ a, b, product }: Sums): number | null =>
  a > 0 && b > 0 ? Math.max(-1, Math.min(1, product / (Math.sqrt(a) * Math.sqrt(b)))) : null

const sameShape = (a: TensorSource, b: TensorSource): boolean =>
  a.shape.length === b.shape.length && a.shape.every((size, i) => size === b.shape[i])

/**
 * @param each called before each tensor: how many of how many are done, and its name
 * @throws QuantizeError as reading and decoding do
 */
export const compareCheckpoints = async (
  a: Checkpoint,
  b: Checkpoint,
  each: (done: number, of: number, name: string) => void | Promise<void>,
): Promise<Comparison> => {
  const shared = [...a.tensors.values()].filter(({ name }) => b.tensors.has(name))
  const totals = { a: 0, error: 0, largest: 0 }
  const compare = (from: TensorSource): TensorComparison => {
    const { name } = from
    const to = b.tensors.get(name)!
    const pair = { name, a: held(a, from), b: held(b, to) }
    if (!sameShape(from, to)) return { ...pair, by: 'none', differs: 'shape' }
    if (!isFloat(from.dtype) || !isFloat(to.dtype))
      return from.dtype === to.dtype
        ? { ...pair, by: 'bytes', differingBytes: differingBytes(from, to) }
        : { ...pair, by: 'none', differs: 'dtype' }
    const sums = sumsOf(from, to)
    totals.a += sums.a
    totals.error += sums.error
    totals.largest = Math.max(totals.largest, sums.largest)
    const { largest: maxAbsError, notFinite } = sums
    return {
      ...pair,
      by: 'values',
      sqnrDb: decibels(sums.a, sums.error),
      maxAbsError,
      cosine: cosineOf(sums),
      notFinite,
    }
  }
  const tensors: TensorComparison[] = []
  for (const [index, tensor] of shared.entries()) {
    await each(index, shared.length, tensor.name)
    tensors.push(compare(tensor))
  }
  return {
    tensors,
    onlyInA: [...a.tensors.keys()].filter(name => !b.tensors.has(name)),
    onlyInB: [...b.tensors.keys()].filter(name => !a.tensors.has(name)),
    sqnrDb: decibels(totals.a, totals.error),
    maxAbsError: totals.largest,
  }
}

/** Whether every value and byte is the same; other dtypes of the same values do not matter. */
export const isIdentical = (tensor: TensorComparison): boolean =>
  tensor.by === 'values'
    ? tensor.maxAbsError === 0 && tensor.notFinite === 0
    : tensor.by === 'bytes' && tensor.differingBytes === 0

const exceeds = (tensor: TensorComparison, tolerance: number): boolean =>
  tensor.by === 'values' ? tensor.maxAbsError > tolerance || tensor.notFinite > 0 : !isIdentical(tensor)

/**
 * The names that break a tolerance: values that differ by more than it (absolutely, in the unit of the weights), or are NaN or infinite on one
 * side; bytes, shapes or dtypes that differ at all; tensors that one side lacks.
 */
export const beyondTolerance = ({ tensors, onlyInA, onlyInB }: Comparison, tolerance: number): readonly string[] => [
  ...tensors.filter(tensor => exceeds(tensor, tolerance)).map(({ name }) => name),
  ...onlyInA,
  ...onlyInB,
]
