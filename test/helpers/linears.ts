/** Random weights, Gram matrices and their factors, in plain float64; one linear by the kernels and by the reference. */
import type { ActOrder, Bits, ClipName, GridName, Group, Storage, TensorSource } from '../../src/contracts.ts'
import { fromFloat32, toFloat32 } from '../../src/dtype/convert.ts'
import { packFactor } from '../../src/engine/kernel/factor.ts'
import type { PanelDtype } from '../../src/engine/kernel/panels.ts'
import type { Kernels } from '../../src/engine/kernel/pool.ts'
import { type Panels, panelsOf, writePanels } from '../../src/engine/ort/panels.ts'
import { clips } from '../../src/quantize/clip/index.ts'
import { gridNamed } from '../../src/quantize/grid/index.ts'
import { quantizeLinear, type RoundedLinear } from '../../src/quantize/quantize-linear.ts'
import { quantizeReference } from '../../src/quantize/reference.ts'

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

/** How one linear is quantized, but for the rounding. */
export interface Setting {
  readonly out: number
  readonly in: number
  /** Integers when left out. */
  readonly grid?: GridName
  readonly bits: Bits
  readonly symmetric: boolean
  readonly clip: ClipName
  readonly group: Group
  /** Of the stored weights. */
  readonly dtype: PanelDtype
  readonly storage: Storage
  /** The largest weight under a common global scale. */
  readonly shared?: number
  /** [in]: what a squared error of each column counts in the clip's search. */
  readonly weighting?: Float32Array
}

/** What error feedback runs with. */
export interface Feedback {
  /** [in, in], upper triangular, in the sweep's order. */
  readonly U: Float32Array
  readonly actOrder: ActOrder
  readonly order?: Int32Array
}

/** An upper triangular U [n, n], rows and columns reversed, in panels. */
export const reversedPanels = (U: Float32Array, n: number): Panels => panelsOf(U.slice().reverse(), n, 48)

/** The U of such panels, zeros below the diagonal. */
export const upperOf = (panels: Panels): Float32Array => {
  const reversed = new Float32Array(panels.n ** 2)
  writePanels(panels, reversed)
  return reversed.reverse().map((value, at) => (at % panels.n < Math.floor(at / panels.n) ? 0 : value + 0))
}

/** By the kernels; round to nearest without feedback. */
export const byKernels = async (
  kernels: Kernels,
  W: Float32Array,
  { grid = 'int', bits, symmetric, dtype, ...setting }: Setting,
  feedback?: Feedback,
): Promise<RoundedLinear> => {
  const job = { ...setting, name: 'w', dtype, source: fromFloat32(W, dtype), grid: gridNamed(grid, bits, symmetric) }
  if (!feedback) return quantizeLinear(kernels, { ...job, rounding: { name: 'nearest' } })
  const { U, actOrder, order } = feedback
  const factor = packFactor(kernels, reversedPanels(U, setting.in))
  try {
    return await quantizeLinear(kernels, { ...job, rounding: { name: 'gptq', factor, actOrder, order } })
  } finally {
    factor.release()
  }
}

/** By the plain reference, from the weights as the dtype stores them. */
export const byReference = (
  W: Float32Array,
  { out, in: inputs, grid = 'int', bits, symmetric, clip, dtype, ...setting }: Setting,
  feedback?: Feedback,
): RoundedLinear =>
  quantizeReference(toFloat32(fromFloat32(W, dtype), dtype), out, inputs, {
    ...setting,
    grid: gridNamed(grid, bits, symmetric),
    clip: clips[clip],
    feedback: feedback && { factor: feedback.U, actOrder: feedback.actOrder, order: feedback.order },
  })

/** A factor of no particular H: upper triangular, its feedback below one step a column. */
export const randomFactor = (n: number, seed: number): Float32Array => {
  const random = uniform(seed)
  return Float32Array.from({ length: n * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n]
    if (i > j) return 0
    return i === j ? 1 + 0.4 * random() : random() / Math.sqrt(n)
  })
}

export const shuffled = (n: number, seed: number): Int32Array => {
  const random = uniform(seed)
  const keys = Float64Array.from({ length: n }, random)
  return Int32Array.from(keys.keys()).sort((a, b) => keys[a] - keys[b])
}

/**
 * Row `row` of W where the columns at positions before `at` have the values of Q: the others moved to where the output error
 * tr(ΔW·H·ΔWᵀ) is least, w_F + (w_C − q_C)·H_CF·H_FF⁻¹. Solved anew, without a factor.
 * @returns by position from `at` on
 */
export const leastErrorRest = (
  W: ArrayLike<number>,
  Q: ArrayLike<number>,
  H: Float64Array,
  n: number,
  order: ArrayLike<number>,
  at: number,
  row: number,
): Float64Array => {
  const free = Array.from({ length: n - at }, (_, i) => order[at + i])
  const inverse = inverseOf(Float64Array.from(free.flatMap(i => free.map(j => H[i * n + j]))), free.length)
  const pull = free.map(j => {
    let sum = 0
    for (let c = 0; c < at; c++) sum += (W[row * n + order[c]] - Q[row * n + order[c]]) * H[order[c] * n + j]
    return sum
  })
  return Float64Array.from(free, (column, i) =>
    pull.reduce((value, p, k) => value + p * inverse[k * free.length + i], W[row * n + column]),
  )
}

/** Weights as a stored tensor. */
export const tensorOf = (W: Float32Array, out: number, inputs: number, dtype: PanelDtype = 'F32'): TensorSource => {
  const data = fromFloat32(W, dtype)
  return {
    name: 'w.weight',
    file: 'model.safetensors',
    dtype,
    shape: [out, inputs],
    bytes: data.byteLength,
    read(start = 0, end = data.byteLength, into = new Uint8Array(end - start)) {
      into.set(data.subarray(start, end))
      return into
    },
  }
}
