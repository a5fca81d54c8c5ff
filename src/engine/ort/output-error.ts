/** How much a change of weights changes the outputs of a linear, from the Gram matrix of its inputs: ‖ΔW·X‖² / T = tr(ΔW·G·ΔWᵀ). */
import { multiply, safeThreads } from './products.ts'
import type { Engine } from './session.ts'

export interface OutputError {
  /** tr(ΔW·G·ΔWᵀ): squared change of the outputs, summed over them, mean over tokens. */
  readonly error: number
  /** tr(W·G·Wᵀ): squared outputs, likewise. */
  readonly energy: number
}

/** Rows of weights a product: bounds the memory. */
const tileRows = 512

/** −Σ m·p, in two chains of additions. */
const negatedDot = (m: Float32Array, p: Float32Array): number => {
  const even = m.length - (m.length % 2)
  let [sum0, sum1] = [even < m.length ? m[even] * p[even] : 0, 0]
  for (let i = 0; i < even; i += 2) {
    sum0 += m[i] * p[i]
    sum1 += m[i + 1] * p[i + 1]
  }
  return -(sum0 + sum1)
}

/**
 * Gives tr(M·G·Mᵀ), the products −M·G times M element by element, of each of several matrices M [rows, n] of a stack [matrices · rows, n], which are multiplied together. The bits do not
 * depend on how many there are. The memory of the products is kept from call to call.
 */
export const quadraticForms = (
  engine: Engine,
  gram: Float32Array,
  n: number,
): ((stack: Float32Array, rows: number) => Promise<number[]>) => {
  const g = { data: gram, rows: n, columns: n }
  let product = new Float32Array(0)
  return async (stack, rows) => {
    if (product.length < stack.length) product = new Float32Array(stack.length)
    const all = stack.length / n
    await multiply(engine, 'NN', { data: stack, rows: all, columns: n }, g, product, -1, safeThreads(all, n))
    return Array.from({ length: all / rows }, (_, i) => {
      const [start, end] = [i * rows * n, (i + 1) * rows * n]
      return negatedDot(stack.subarray(start, end), product.subarray(start, end))
    })
  }
}

/** tr(M·G·Mᵀ) of rows M [out, n], tile by tile. */
export const quadraticForm = async (
  engine: Engine,
  m: Float32Array,
  gram: Float32Array,
  n: number,
): Promise<number> => {
  const formsOf = quadraticForms(engine, gram, n)
  let sum = 0
  for (let start = 0; start < m.length; start += tileRows * n) {
    const tile = m.subarray(start, start + tileRows * n)
    const [form] = await formsOf(tile, tile.length / n)
    sum += form
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
