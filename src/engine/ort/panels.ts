/**
 * A lower triangular matrix as block columns, each contiguous: panel k holds rows [starts[k], n) × columns [starts[k], starts[k + 1]),
 * row-major. The narrow panel, if any, comes first: then no product is wider than tall, and its bits do not depend on the threads.
 */
export interface Panels {
  readonly n: number
  /** First column of each panel, then n. */
  readonly starts: readonly number[]
  readonly data: Float32Array[]
}

const panelStarts = (n: number, width: number): readonly number[] => {
  const starts = [0]
  for (let next = n % width || width; next <= n; next += width) starts.push(next)
  return starts
}

/** Panels of at most `width` columns; `fill` writes rows [start, n) × columns [start, end) into each. */
export const createPanels = (
  n: number,
  width: number,
  fill: (panel: Float32Array, start: number, end: number) => void,
): Panels => {
  const starts = panelStarts(n, width)
  const data = starts.slice(0, -1).map((start, k) => {
    const panel = new Float32Array((n - start) * (starts[k + 1] - start))
    fill(panel, start, starts[k + 1])
    return panel
  })
  return { n, starts, data }
}

/** Panels of a dense [n, n] matrix; its strict upper triangle is not read outside the diagonal blocks. */
export const panelsOf = (dense: Float32Array, n: number, width: number): Panels =>
  createPanels(n, width, (panel, start, end) => {
    for (let row = start; row < n; row++)
      panel.set(dense.subarray(row * n + start, row * n + end), (row - start) * (end - start))
  })

/** Writes the panels into a dense [n, n] matrix; above the diagonal blocks it stays as it was. */
export const writePanels = ({ n, starts, data }: Panels, dense: Float32Array): void => {
  for (const [k, panel] of data.entries()) {
    const start = starts[k]
    const width = starts[k + 1] - start
    for (let row = start; row < n; row++)
      dense.set(panel.subarray((row - start) * width, (row - start + 1) * width), row * n + start)
  }
}
