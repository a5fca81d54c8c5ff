/** Random weights, Gram matrices and their factors, in plain float64. */
import type { Storage } from '../../src/contracts.ts'

export const f16Storage: Storage = { decode: 'affine', scaleDtype: 'F16', zeroRange: [0, 255] }

/** Uniform in (−1, 1), the same everywhere (xorshift32). */
export const uniform = (seed: number): (() => number) => {
  let state = seed | 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 31 - 1
  }
}

export const randomWeights = (out: number, inputs: number, seed: number, size = 0.1): Float32Array =>
  Float32Array.from({ length: out * inputs }, uniform(seed)).map(weight => weight * size)

/** Mean of x xᵀ over `tokens` random tokens of n correlated channels of unequal size, [n, n]. */
export const randomGram = (n: number, tokens: number, seed: number): Float64Array => {
  const random = uniform(seed)
  const x = Array.from({ length: tokens }, () => {
    const token = Float64Array.from({ length: n }, random)
    for (let i = 1; i < n; i++) token[i] = (0.6 * token[i - 1] + 0.8 * token[i]) * (i % 5 === 0 ? 3 : 1)
    return token
  })
  return Float64Array.from({ length: n * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n]
    return x.reduce((sum, token) => sum + token[i] * token[j], 0) / tokens
  })
}

/** Rows and columns in another order. */
export const permuted = (matrix: Float64Array, n: number, order: ArrayLike<number>): Float64Array =>
  matrix.map((_, at) => matrix[order[Math.floor(at / n)] * n + order[at % n]])

/** A⁻¹ by Gauss–Jordan elimination (A symmetric positive definite: no pivoting). */
export const inverseOf = (a: Float64Array, n: number): Float64Array => {
  const left = a.slice()
  const right = new Float64Array(n * n)
  for (let i = 0; i < n; i++) right[i * n + i] = 1
  for (let pivot = 0; pivot < n; pivot++) {
    const scale = 1 / left[pivot * n + pivot]
    for (let j = 0; j < n; j++) {
      left[pivot * n + j] *= scale
      right[pivot * n + j] *= scale
    }
    for (let row = 0; row < n; row++) {
      const factor = left[row * n + pivot]
      if (row === pivot || factor === 0) continue
      for (let j = 0; j < n; j++) {
        left[row * n + j] -= factor * left[pivot * n + j]
        right[row * n + j] -= factor * right[pivot * n + j]
      }
    }
  }
  return right
}

/** U, upper triangular, with H⁻¹ = UᵀU, as float32. */
export const factorOf = (H: Float64Array, n: number): Float32Array => {
  const inverse = inverseOf(H, n)
  const U = new Float64Array(n * n)
  for (let i = 0; i < n; i++)
    for (let j = i; j < n; j++) {
      let rest = inverse[i * n + j]
      for (let k = 0; k < i; k++) rest -= U[k * n + i] * U[k * n + j]
      U[i * n + j] = i === j ? Math.sqrt(rest) : rest / U[i * n + i]
    }
  return Float32Array.from(U)
}

/** tr(Δ·H·Δᵀ) of Δ [out, n]. */
export const quadraticForm = (delta: ArrayLike<number>, H: ArrayLike<number>, n: number): number => {
  let sum = 0
  for (let row = 0; row < delta.length; row += n)
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) sum += delta[row + i] * H[i * n + j] * delta[row + j]
  return sum
}

export const differenceOf = (a: Float32Array, b: Float32Array): Float64Array =>
  Float64Array.from(a, (value, i) => value - b[i])
