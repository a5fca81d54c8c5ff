import { blockOf, type Dtype, dtypeBits } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'

/**
 * Checked arithmetic for sizes and offsets: the only place where numbers that a file claims are added or multiplied.
 * Every function gives an exact integer in [0, 2^53 - 1] or throws QuantizeError bad-input whose line begins with `what`.
 */

/** Largest integer below which every integer is a distinct number. */
export const maxSize = Number.MAX_SAFE_INTEGER

const refuse = (what: string, problem: string): never => {
  throw new QuantizeError('bad-input', `${what}: ${problem}`)
}

/** A number or bigint from a file, as a size. */
export const toSize = (value: number | bigint, what: string): number => {
  if (value < 0) refuse(what, `${value} is negative`)
  if (value > maxSize) refuse(what, `${value} is beyond 2^53 - 1`)
  const size = Number(value)
  return Number.isSafeInteger(size) ? size + 0 : refuse(what, `${value} is not an integer`) // -0 becomes 0
}

export const add = (a: number, b: number, what: string): number => {
  const sum = toSize(a, what) + toSize(b, what)
  return sum > maxSize ? refuse(what, `${a} + ${b} is beyond 2^53 - 1`) : sum
}

/** a − b; a negative difference is refused. */
export const subtract = (a: number, b: number, what: string): number => {
  const difference = toSize(a, what) - toSize(b, what)
  return difference < 0 ? refuse(what, `${a} - ${b} is negative`) : difference
}

/** Exact: a product beyond 2^53 - 1 rounds to at least 2^53, so that no wrong one passes. */
export const multiply = (a: number, b: number, what: string): number => {
  const product = toSize(a, what) * toSize(b, what)
  return product > maxSize ? refuse(what, `${a} * ${b} is beyond 2^53 - 1`) : product
}

/** Number of elements of a shape; 1 for []. */
export const product = (shape: readonly number[], what: string): number =>
  shape.reduce((total, size) => multiply(total, size, what), 1)

/** Bytes of a dense tensor; its bits must fill whole bytes, its rows whole blocks. */
export const tensorBytes = (shape: readonly number[], dtype: Dtype, what: string): number => {
  const elements = product(shape, what)
  const bits = dtypeBits[dtype]
  const block = blockOf(dtype)
  if (block > 1) return multiply(wholeBlocks(shape.at(-1) ?? 1, elements, block, dtype, what), (bits * block) / 8, what)
  if (bits % 8 === 0) return multiply(elements, bits / 8, what)
  const total = multiply(elements, bits, what)
  return total % 8 === 0 ? total / 8 : refuse(what, `${elements} elements of ${bits} bits do not fill whole bytes`)
}

const wholeBlocks = (row: number, elements: number, block: number, dtype: Dtype, what: string): number =>
  row % block === 0
    ? elements / block
    : refuse(what, `rows of ${row} weights are no whole blocks of ${block}, as ${dtype} has`)

/** A size that indexes something of `length` items: in [0, length). */
export const toIndex = (value: number | bigint, length: number, what: string): number => {
  const index = toSize(value, what)
  return index < length ? index : refuse(what, `${index} is not below ${length}`)
}

/** A range [start, end) inside something of `length` items. */
export const toRange = (start: number, end: number, length: number, what: string): readonly [number, number] => {
  const range = [toSize(start, what), toSize(end, what)] as const
  if (range[0] > range[1]) refuse(what, `the range ends at ${end} before it begins at ${start}`)
  return range[1] <= length ? range : refuse(what, `the range ends at ${end}, beyond ${length}`)
}
