/**
 * The order of the rows of q and k. transformers rotates a head's first half with its second; the llama architecture of llama.cpp rotates
 * neighbours, so its converter interleaves the halves (conversion/llama.py, LlamaModel.permute).
 */
import { QuantizeError } from '../errors.ts'
import { type Heads, permutedHeads } from './names.ts'

/** For each row of the result, the row that it comes from. */
export type RowOrder = Int32Array

/**
 * Rows of transformers as llama.cpp wants them: row h·d + 2i + b is row h·d + b·d/2 + i of head h, d = rows / heads.
 * @param what names the tensor in a refusal
 * @throws QuantizeError bad-input unless the rows are heads of an even number of rows
 */
export const interleavedRows = (rows: number, heads: number, what: string): RowOrder => {
  const width = rows / heads
  if (!Number.isInteger(width) || width % 2 !== 0)
    throw new QuantizeError('bad-input', `${what}: ${rows} rows are not ${heads} heads of an even number of rows`)
  const half = width / 2
  return Int32Array.from({ length: rows }, (_, row) => {
    const within = row % width
    return row - within + (within % 2) * half + (within >> 1)
  })
}

/** The order that undoes another. */
export const inverseOrder = (order: RowOrder): RowOrder => {
  const inverse = new Int32Array(order.length)
  order.forEach((from, row) => {
    inverse[from] = row
  })
  return inverse
}

/**
 * Where llama.cpp stores each row of a tensor; undefined: in order.
 * @param name of transformers or of llama.cpp
 * @param what names the tensor in a refusal
 * @throws QuantizeError as interleavedRows
 */
export const storedRows = (
  name: string,
  shape: readonly number[],
  heads: Heads,
  what: string,
): RowOrder | undefined => {
  const count = permutedHeads(name, heads)
  return count === undefined ? undefined : inverseOrder(interleavedRows(shape[0] ?? 0, count, what))
}
