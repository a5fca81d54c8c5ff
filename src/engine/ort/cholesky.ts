/**
 * The factor that error feedback wants, without inverting twice: with H = R·Rᵀ, R upper triangular, U = R⁻¹ is upper and H⁻¹ = Uᵀ·U
 * (GPTQ, arXiv 2210.17323, step 3; R comes from an ordinary Cholesky of H with rows and columns reversed).
 */
import { createPanels, type Panels } from './panels.ts'
import type { Engine } from './session.ts'
import { factorPanels, invertPanels } from './triangular.ts'

export interface FactorizeOptions {
  /** Share of the mean diagonal that is added to the diagonal. */
  readonly damp: number
  /** Sweep position → column, a permutation of [0, n). Default: natural order. */
  readonly order?: Int32Array
}

export interface Factorization {
  /** U, upper triangular in sweep order: H⁻¹ = Uᵀ·U, U·H·Uᵀ = I. It comes with its rows and columns reversed, which makes it lower triangular. */
  readonly reversedU: Panels
  /** The damping used: the one asked for, or as much more as it took. */
  readonly damp: number
  /** The Gram matrix was all zeros and H = I was taken: error feedback then equals plain rounding. */
  readonly zero: boolean
}

/** Least damping tried after one that failed: twice less than 5e-5 may factor, but by luck (|U·H·Uᵀ − I| up to 5 on singular matrices). */
const smallestRaise = 1e-4

/** Panel width: 192 columns were fastest below about 2000, 256 above. */
const panelWidth = (n: number): number => (n < 2000 ? 192 : 256)

const meanDiagonal = (gram: Float32Array, n: number): number => {
  let sum = 0
  for (let i = 0; i < n; i++) sum += gram[i * n + i]
  return sum / n
}

/** Channels that never saw a value other than zero: their diagonal element of the Gram matrix [n, n] is 0. */
export const deadChannels = (gram: Float32Array, n: number): number => {
  let dead = 0
  for (let i = 0; i < n; i++) if (gram[i * n + i] === 0) dead++
  return dead
}

/** H, [n, n]: the Gram matrix with damp · mean(diag G) added to its diagonal. */
export const dampedGram = (gram: Float32Array, damp: number): Float32Array => {
  const n = Math.sqrt(gram.length)
  const added = damp * meanDiagonal(gram, n)
  const damped = gram.slice()
  for (let i = 0; i < n; i++) damped[i * n + i] += added
  return damped
}

/** Row of the reversed matrix → column of the Gram matrix. */
export const reversedColumns = (n: number, order?: Int32Array): Int32Array =>
  Int32Array.from({ length: n }, (_, row) => (order ? order[n - 1 - row] : n - 1 - row))

/** The lower triangle of H, reversed, as panels; diagonal blocks are whole. */
export const reversedPanels = (gram: Float32Array, columns: Int32Array, added = 0): Panels => {
  const n = columns.length
  return createPanels(n, panelWidth(n), (panel, start, end) => {
    const width = end - start
    for (let row = start; row < n; row++) {
      const from = columns[row] * n
      const to = (row - start) * width - start
      for (let column = start; column < end; column++) panel[to + column] = gram[from + columns[column]]
      if (row < end) panel[to + row] += added
    }
  })
}

const tryFactorize = async (
  engine: Engine,
  gram: Float32Array,
  columns: Int32Array,
  added: number,
): Promise<Panels | undefined> => {
  const panels = reversedPanels(gram, columns, added)
  const diagonal = await factorPanels(engine, panels)
  if (!diagonal) return undefined
  await invertPanels(engine, panels, diagonal)
  return panels
}

const identity = (n: number): Panels =>
  createPanels(n, panelWidth(n), (panel, start, end) => {
    const width = end - start
    for (let i = 0; i < width; i++) panel[i * width + i] = 1
  })

/** The damping to try after `damp` failed: twice as much, at least 1e-4, at last 1. */
const raised = (damp: number): number => Math.min(1, Math.max(2 * damp, smallestRaise))

/**
 * U for H = P·G·Pᵀ + damp · mean(diag G) · I, P the permutation into sweep order. A pivot that is not positive and finite
 * raises the damping: to twice as much each time, at least 1e-4 and at most 1. A channel never seen gets zeros beside its diagonal element.
 * G is only read; beside it, half of its size is held. The bits do not depend on the number of threads.
 * @param gram G, [n, n], symmetric
 * @returns undefined when even damping 1 does not factor: G has values that are not finite, or is no Gram matrix
 */
export const factorize = async (
  engine: Engine,
  gram: Float32Array,
  { damp: asked, order }: FactorizeOptions,
): Promise<Factorization | undefined> => {
  const n = Math.sqrt(gram.length)
  const mean = meanDiagonal(gram, n)
  if (mean === 0) return { reversedU: identity(n), damp: asked, zero: true }
  if (!(mean > 0 && mean < Number.POSITIVE_INFINITY)) return undefined
  const columns = reversedColumns(n, order)
  for (let damp = asked; ; damp = raised(damp)) {
    const reversedU = await tryFactorize(engine, gram, columns, damp * mean)
    if (reversedU) return { reversedU, damp, zero: false }
    if (damp >= 1) return undefined
  }
}
