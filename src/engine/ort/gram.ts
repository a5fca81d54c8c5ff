/**
 * The Gram matrix of a tap, Σ x xᵀ over its tokens: half of it, in tiles of columns, each added to in place by one Gemm.
 */
import type { Statistics } from '../../contracts.ts'
import { accumulate } from './products.ts'
import type { Engine } from './session.ts'

export interface GramAccumulator {
  /**
   * Adds Σ x xᵀ over the tokens of a chunk. Await it before the next call: the sum depends on the order of the chunks (and on nothing
   * else: not on the number of threads).
   * @param transposed [n, rows]: one row a feature, one column a token
   */
  add(transposed: Float32Array, rows: number): Promise<void>
  /** The first channel whose sum of squares is not finite; −1 when all are. */
  notFinite(): number
  /** The mean over all tokens added, exactly symmetric (zeros when there were none). Frees the accumulator: call it once. */
  finish(): Statistics
}

/** Widest tile: of 96 … 512 columns, 96 were fastest at n = 576 (less is computed twice on the diagonal), 192 at n = 1536 and 4096. */
const tileWidth = (n: number): number => (n < 1024 ? 96 : 192)

/**
 * Tokens between two carries into the total. A tile alone rounds once for each 128 tokens, always the same way on a channel that is
 * constant: relative error 5.8e-5 after 10⁶ tokens, below 1e-5 with two levels.
 */
const carryTokens = 32_768

/** Rows [0, end) × columns [start, end) of the Gram matrix, negated (why: see products.ts). */
interface Tile {
  readonly start: number
  readonly end: number
  readonly data: Float32Array
}

const createTiles = (n: number): readonly Tile[] => {
  const count = Math.ceil(n / tileWidth(n))
  // nearly equal, multiples of 16: a narrow last tile would sum in longer runs, less exactly
  const width = 16 * Math.ceil(n / count / 16)
  return Array.from({ length: Math.ceil(n / width) }, (_, index) => {
    const start = index * width
    const end = Math.min(n, start + width)
    return { start, end, data: new Float32Array(end * (end - start)) }
  })
}

/** Moves a tile's sums into the upper triangle of `total` [n, n] and clears the tile. */
const carry = ({ start, end, data }: Tile, total: Float32Array, n: number): void => {
  const width = end - start
  for (let row = 0; row < end; row++)
    for (let column = Math.max(row, start); column < end; column++)
      total[row * n + column] -= data[row * width + column - start]
  data.fill(0)
}

/** The first element of a tile's diagonal that is not finite, as an index of a channel; −1: none. */
const brokenDiagonal = ({ start, end, data }: Tile): number => {
  const width = end - start
  for (let channel = start; channel < end; channel++)
    if (!Number.isFinite(data[channel * width + channel - start])) return channel
  return -1
}

/** Side of the squares in which the matrix is mirrored, so that both sides stay in the cache. */
const square = 32

/** The upper triangle divided by the token count, and mirrored. */
const finishMean = (total: Float32Array, n: number, count: number): void => {
  for (let top = 0; top < n; top += square)
    for (let left = top; left < n; left += square)
      for (let row = top; row < Math.min(n, top + square); row++)
        for (let column = Math.max(row, left); column < Math.min(n, left + square); column++) {
          const mean = Math.fround(total[row * n + column] / count)
          total[row * n + column] = mean
          total[column * n + row] = mean
        }
}

/** An empty accumulator for a tap of n features; it holds about 6 n² bytes. */
export const createGram = (engine: Engine, n: number): GramAccumulator => {
  let tiles = createTiles(n)
  let count = 0
  let uncarried = 0
  let total: Float32Array | undefined // a short run needs it only at the end
  const carryAll = (): Float32Array => {
    total ??= new Float32Array(n * n)
    for (const tile of tiles) carry(tile, total, n)
    uncarried = 0
    return total
  }
  return {
    async add(transposed, rows) {
      if (rows === 0) return
      for (const { start, end, data } of tiles) {
        const left = { data: transposed, rows: end, columns: rows }
        const right = { data: transposed.subarray(start * rows), rows: end - start, columns: rows }
        await accumulate(engine, 'NT', left, right, data, -1)
      }
      count += rows
      uncarried += rows
      if (uncarried >= carryTokens) carryAll()
    },
    notFinite: () => tiles.map(brokenDiagonal).find(channel => channel >= 0) ?? -1,
    finish() {
      const gram = uncarried > 0 || !total ? carryAll() : total
      tiles = []
      if (count > 0) finishMean(gram, n, count)
      return { count, gram }
    },
  }
}

/** [n]: the mean of the squares of each feature, from a Gram matrix [n, n]. */
export const diagonalOf = (gram: Float32Array, n: number): Float32Array =>
  Float32Array.from({ length: n }, (_, channel) => gram[channel * n + channel])
