/** How much a change of weights changes the outputs of a linear, from the Gram matrix of its inputs: ‖ΔW·X‖² / T = tr(ΔW·G·ΔWᵀ). */
import { multiply } from './products.ts'
import type { Engine } from './session.ts'

export interface OutputError {
  /** tr(ΔW·G·ΔWᵀ): squared change of the outputs, summed over them, mean over tokens. */
  readonly error: number
  /** tr(W·G·Wᵀ): squared outputs, likewise. */
  readonly energy: number
}

/** Rows of weights a product: bounds the memory. Never more than G has (no product wider than tall: see products.ts). */
const tileRows = 512

/** Columns summed together: a cache line of M against as many rows of the product. */
const strip = 16

/** tr(M·G·Mᵀ) of rows M [rows, n], given −G·Mᵀ as [n, rows]. */
const negatedTrace = (m: Float32Array, product: Float32Array, rows: number, n: number): number => {
  let sum = 0
  for (let start = 0; start < n; start += strip) {
    const end = Math.min(n, start + strip)
    for (let row = 0; row < rows; row++)
      for (let column = start; column < end; column++) sum -= m[row * n + column] * product[column * rows + row]
  }
  return sum
}

const quadraticForm = async (engine: Engine, m: Float32Array, gram: Float32Array, n: number): Promise<number> => {
  const out = m.length / n
  const tile = Math.min(tileRows, n, out)
  const product = new Float32Array(n * tile)
  let sum = 0
  for (let start = 0; start < out; start += tile) {
    const rows = Math.min(tile, out - start)
    const part = m.subarray(start * n, (start + rows) * n)
    await multiply(engine, 'NT', { data: gram, rows: n, columns: n }, { data: part, rows, columns: n }, product, -1)
    sum += negatedTrace(part, product, rows, n)
  }
  return sum
}

/**
 * Error and energy of a linear's outputs; products in float32, sums in float64. The bits do not depend on the number of threads.
 * @param delta [out, in]: quantized minus original weights (the sign does not matter)
 * @param weight [out, in]
 * @param gram [in, in], symmetric: mean of x xᵀ over tokens
 */
export const outputError = async (
  engine: Engine,
  delta: Float32Array,
  weight: Float32Array,
  gram: Float32Array,
): Promise<OutputError> => {
  const n = Math.sqrt(gram.length)
  return {
    error: await quadraticForm(engine, delta, gram, n),
    energy: await quadraticForm(engine, weight, gram, n),
  }
}
