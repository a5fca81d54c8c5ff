/**
 * Importance matrices of llama.cpp (tools/imatrix): how much each input of a weight weighs. Files hold sums and counts, llama-quantize divides
 * them in float32 (tools/quantize/quantize.cpp, load_imatrix), and so do we.
 */
import { compareUtf8 } from '../checkpoint/shard-plan.ts'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'
import { toSize } from '../io/size.ts'

export interface Importances {
  /** [in]: the mean of the squares of each input. */
  readonly values: Float32Array
  /** What it was taken over: tokens, or chunks where the matrix has no chunkSize. 0: not known. */
  readonly count: number
}

export interface Imatrix {
  /** By the weight's name in llama.cpp: blk.0.attn_q.weight. */
  readonly entries: ReadonlyMap<string, Importances>
  /** Names of the texts. */
  readonly datasets: readonly string[]
  /** Of all texts; 0: not known. */
  readonly chunks: number
  /** Tokens of a chunk. undefined in the old form, which counts in chunks. */
  readonly chunkSize: number | undefined
}

const maxMean = 1e30 // ggml adds up products of it and squared weights in float32, which ends at 3.4e38
const expert = /_exps\.weight$/

export const refuse = (what: string, problem: string, code: 'bad-input' | 'unsupported' = 'bad-input'): never => {
  throw new QuantizeError(code, `${what} ${problem}`)
}

/** How messages begin. */
export const entryOf = (file: string, name: string): string => `${printable(file)}: entry "${printable(name)}"`

/** @throws QuantizeError bad-input, unsupported */
export const checkName = (name: string, what: string): void => {
  if (name === '') refuse(what, 'has no name')
  if (name.includes('\0')) refuse(what, 'has a name that llama.cpp would cut at a zero byte')
  if (expert.test(name)) refuse(what, 'is of several experts; only dense models are read', 'unsupported')
}

const checkSum = (sum: number, column: number, what: string): void => {
  if (!(sum >= 0 && sum < Number.POSITIVE_INFINITY))
    refuse(what, `holds ${sum} in column ${column}, which is no sum of squares`)
}

const checkMean = (mean: number, column: number, what: string): void => {
  if (mean > maxMean) refuse(what, `has a mean of ${mean} in column ${column}; above ${maxMean} ggml would overflow`)
}

/**
 * Means of sums [in] over `count`, as a file will give them back exactly.
 * @param count above 0; float32, as llama.cpp divides: above 2^24 it is rounded
 * @throws QuantizeError bad-input beginning with `what`, for a sum that is NaN, infinite or negative, and a mean above 1e30
 */
export const importancesOf = (sums: Float32Array, count: number, what: string): Importances => {
  const divisor = Math.fround(count)
  const values = sums.map((sum, column) => {
    checkSum(sum, column, what)
    const mean = Math.fround(sum / divisor)
    checkMean(mean, column, what)
    return mean
  })
  return { values, count }
}

/**
 * Sums [in] to store: the inverse of importancesOf. A mean of float32 sums comes back from its rounded product; where one lies between the
 * means of two neighbouring sums, the nearer of these does.
 * @param count above 0
 * @throws QuantizeError bad-input beginning with `what`
 */
export const sumsOf = ({ values }: Importances, count: number, what: string): Float32Array => {
  if (values.length === 0) refuse(what, 'has no columns')
  const divisor = Math.fround(count)
  return values.map((mean, column) => {
    checkSum(mean, column, what)
    checkMean(mean, column, what)
    const sum = Math.fround(mean * divisor)
    checkSum(sum, column, what)
    return sum
  })
}

/** In llama.cpp's order. @throws QuantizeError bad-input, unsupported: what a reader would refuse */
export const sortedEntries = ({ entries }: Imatrix, file: string): readonly (readonly [string, Importances])[] => {
  if (entries.size === 0) refuse(`${printable(file)}:`, 'an importance matrix without entries')
  for (const [name, { count }] of entries) {
    checkName(name, entryOf(file, name))
    toSize(count, `${entryOf(file, name)}: its count`)
  }
  return [...entries].sort(([a], [b]) => compareUtf8(a, b))
}
