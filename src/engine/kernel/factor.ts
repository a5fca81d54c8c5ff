import type { Kernels } from './pool.ts'

/** U of inv(H) = UᵀU, packed for the sweep: made once for all linears that share a tap. */
export interface Factor {
  readonly address: number
  /** Rows and columns of U. */
  readonly size: number
  release(): void
}

/** Float32 values before strip s: strips 0 … s − 1 hold 2 · (2t + 2) each. */
const stripStart = (strip: number): number => 2 * strip * (strip + 1)

/** Rows whose entries share the cache lines of a strip. */
const rowsPerBlock = 8

/** Rows [first, end) of the strip that begins at `to` and holds columns `column` and `column + 1`. */
const packStrip = (
  U: Float32Array,
  size: number,
  packed: Float32Array,
  to: number,
  column: number,
  first: number,
  end: number,
): void => {
  const pair = column + 1 < size
  for (let row = first; row < end; row++) {
    const from = row * size + column
    packed[to + 2 * row] = row > column ? 0 : U[from]
    packed[to + 2 * row + 1] = pair ? U[from + 1] : 0
  }
}

/**
 * Packs the upper triangle into strips of two columns (2s, 2s + 1), each with rows 0 … 2s + 1 as pairs, which the sweep reads in order.
 * Takes half the bytes of U: 4 · in² / 2.
 * @param U [size, size], row-major, upper triangular, rows and columns in the sweep's order
 * @throws QuantizeError exhausted
 */
export const packFactor = (kernels: Kernels, U: Float32Array, size: number): Factor => {
  const strips = Math.ceil(size / 2)
  const region = kernels.allocate(4 * stripStart(strips))
  const packed = region.f32()
  for (let first = 0; first < size; first += rowsPerBlock) {
    for (let strip = first >> 1; strip < strips; strip++) {
      const column = 2 * strip
      packStrip(U, size, packed, stripStart(strip), column, first, Math.min(first + rowsPerBlock, column + 2, size))
    }
  }
  return { address: region.address, size, release: region.free }
}
