/**
 * Drift: how far the inputs of a linear are from those of the unquantized model, because linears before it are quantized; and the weights
 * that make up for it. The wanted outputs are W·x, the inputs are x̂: the weights of least squares are W·E[x x̂ᵀ]·Ĥ⁻¹ = W + W·D·Ĥ⁻¹ with
 * D = E[(x − x̂) x̂ᵀ], and what rounding adds to their error is tr(ΔW·Ĥ·ΔWᵀ) (QEP, arXiv 2504.09629; Qronos, arXiv 2505.11695).
 */
import { reversedColumns } from './cholesky.ts'
import { type Panels, writePanels } from './panels.ts'
import { accumulate, multiply, square } from './products.ts'
import type { Engine } from './session.ts'

export interface DriftAccumulator {
  /**
   * Adds Σ (x − x̂) x̂ᵀ over the tokens of a chunk. Await it before the next call: the sum depends on the order of the chunks.
   * @param original x, transposed: [n, rows]
   * @param drifted x̂ of the same tokens: [n, rows]
   */
  add(original: Float32Array, drifted: Float32Array, rows: number): Promise<void>
  /** D, the mean over all tokens added, [n, n] (zeros when there were none). Frees the accumulator: call it once. */
  finish(): Float32Array
}

/** An empty accumulator for a tap of n features; it holds 4 n² bytes, and a chunk of the tap. */
export const createDrift = (engine: Engine, n: number): DriftAccumulator => {
  const sum = new Float32Array(n * n)
  let scratch = new Float32Array(0)
  let count = 0
  return {
    async add(original, drifted, rows) {
      if (scratch.length < n * rows) scratch = new Float32Array(n * rows)
      for (let i = 0; i < n * rows; i++) scratch[i] = drifted[i] - original[i] // negated, as alpha is: see products.ts
      const left = { data: scratch, rows: n, columns: rows }
      await accumulate(engine, 'NT', left, { data: drifted, rows: n, columns: rows }, sum, -1)
      count += rows
    },
    finish() {
      scratch = new Float32Array(0)
      if (count > 0) for (let i = 0; i < sum.length; i++) sum[i] /= count
      return sum
    },
  }
}

/**
 * C [n, n] of the weights W + W·C that go `share` of the way: C = share · D·Ĥ⁻¹.
 * @param drift D, [n, n]
 * @param reversedU of the damped Ĥ (cholesky.ts)
 * @param order sweep position → column, as for `factorize`
 */
export const driftCorrection = async (
  engine: Engine,
  drift: Float32Array,
  reversedU: Panels,
  order: Int32Array | undefined,
  share: number,
): Promise<Float32Array> => {
  const { n } = reversedU
  const factor = new Float32Array(n * n)
  writePanels(reversedU, factor)
  const columnAt = reversedColumns(n, order)
  const reversed = new Float32Array(n * n)
  for (let row = 0; row < n * n; row += n) for (let at = 0; at < n; at++) reversed[row + at] = drift[row + columnAt[at]]
  const product = new Float32Array(n * n)
  await multiply(engine, 'NT', square(reversed), square(factor), product, -1)
  await multiply(engine, 'NN', square(product), square(factor), reversed, -share)
  for (let row = 0; row < n * n; row += n)
    for (let at = 0; at < n; at++) product[row + columnAt[at]] = reversed[row + at]
  return product
}
