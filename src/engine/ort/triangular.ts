/**
 * Blocked lower Cholesky and triangular inverse on panels, over Gemm; blocks are factored recursively, the innermost in scalar float64.
 * Diagonal blocks of the inverse are kept negated, so that every product has alpha −1 (why: see products.ts).
 */
import { type Panels, panelsOf, writePanels } from './panels.ts'
import { accumulate, multiply } from './products.ts'
import type { Engine } from './session.ts'

/** L, lower [w, w] with zeros above, and −L⁻¹, the same shape. */
interface Factor {
  readonly lower: Float32Array
  readonly negatedInverse: Float32Array
}

/** Largest block for scalar code: the time grows with the cube. */
const scalarSize = 64

/** L of the lower triangle of A [w, w], float64; undefined when a pivot is not positive and finite. */
const scalarCholesky = (a: Float32Array, w: number): Float64Array | undefined => {
  const l = new Float64Array(w * w)
  for (let row = 0; row < w; row++)
    for (let column = 0; column <= row; column++) {
      let even = 0
      let odd = 0
      let k = 0
      for (; k + 1 < column; k += 2) {
        even += l[row * w + k] * l[column * w + k]
        odd += l[row * w + k + 1] * l[column * w + k + 1]
      }
      if (k < column) even += l[row * w + k] * l[column * w + k]
      const rest = a[row * w + column] - (even + odd)
      if (row > column) l[row * w + column] = rest / l[column * w + column]
      else if (rest > 0 && rest < Number.POSITIVE_INFINITY) l[row * w + row] = Math.sqrt(rest)
      else return undefined
    }
  return l
}

/** −L⁻¹ of a lower triangular L [w, w], row by row: x_i = (e_i − Σ_{k<i} l_ik x_k) / l_ii. */
const scalarNegatedInverse = (l: Float64Array, w: number): Float64Array => {
  const x = new Float64Array(w * w)
  for (let row = 0; row < w; row++) {
    const inverse = 1 / l[row * w + row]
    for (let k = 0; k < row; k++) {
      const factor = l[row * w + k] * inverse
      for (let column = 0; column <= k; column++) x[row * w + column] -= factor * x[k * w + column]
    }
    x[row * w + row] = -inverse
  }
  return x
}

const factorScalar = (a: Float32Array, w: number): Factor | undefined => {
  const l = scalarCholesky(a, w)
  return l && { lower: Float32Array.from(l), negatedInverse: Float32Array.from(scalarNegatedInverse(l, w)) }
}

/** −L⁻¹ of a lower triangular block [w, w]; what lies above its diagonal does not count. */
const negatedInverseOf = async (engine: Engine, block: Float32Array, w: number): Promise<Float32Array> => {
  if (w <= scalarSize) return Float32Array.from(scalarNegatedInverse(Float64Array.from(block), w))
  const panels = panelsOf(block, w, scalarSize)
  await invertLower(engine, panels)
  return negatedDense(panels)
}

const negatedDense = (panels: Panels): Float32Array => {
  const dense = new Float32Array(panels.n ** 2)
  writePanels(panels, dense)
  for (let i = 0; i < dense.length; i++) dense[i] = -dense[i]
  return dense
}

/** Replaces a lower triangular L by its inverse. */
export const invertLower = async (engine: Engine, l: Panels): Promise<void> => {
  const { starts, data } = l
  const diagonal: Float32Array[] = []
  for (const [k, panel] of data.entries()) {
    const w = starts[k + 1] - starts[k]
    diagonal.push(await negatedInverseOf(engine, panel.subarray(0, w * w), w))
  }
  await invertPanels(engine, l, diagonal)
}

const factorBlock = async (engine: Engine, a: Float32Array, w: number): Promise<Factor | undefined> => {
  if (w <= scalarSize) return factorScalar(a, w)
  const panels = panelsOf(a, w, scalarSize)
  const diagonal = await factorPanels(engine, panels)
  if (!diagonal) return undefined
  const lower = new Float32Array(w * w)
  writePanels(panels, lower)
  await invertPanels(engine, panels, diagonal)
  return { lower, negatedInverse: negatedDense(panels) }
}

/**
 * Replaces A by its lower Cholesky factor, right-looking: factor the diagonal block, solve the panel below it, subtract the panel's
 * share from all later panels.
 * @returns the negated inverses of the diagonal blocks; undefined when a pivot fails (A is spoilt then)
 */
export const factorPanels = async (engine: Engine, a: Panels): Promise<readonly Float32Array[] | undefined> => {
  const { n, starts, data } = a
  const diagonal: Float32Array[] = []
  for (let k = 0; k < data.length; k++) {
    const [start, end] = [starts[k], starts[k + 1]]
    const w = end - start
    const factor = await factorBlock(engine, data[k].subarray(0, w * w), w)
    if (!factor) return undefined
    diagonal.push(factor.negatedInverse)
    data[k] = await solvedPanel(engine, data[k], n - end, w, factor)
    for (let j = k + 1; j < data.length; j++) await subtractPanel(engine, a, k, j)
  }
  return diagonal
}

/** [L; A₂₁·L⁻ᵀ] from [A₁₁; A₂₁], `below` rows of A₂₁. */
const solvedPanel = async (engine: Engine, panel: Float32Array, below: number, w: number, factor: Factor) => {
  const solved = new Float32Array(panel.length)
  solved.set(factor.lower)
  const rest = { data: panel.subarray(w * w), rows: below, columns: w }
  const inverse = { data: factor.negatedInverse, rows: w, columns: w }
  if (below > 0) await multiply(engine, 'NT', rest, inverse, solved.subarray(w * w), -1)
  return solved
}

/** A_j −= L_k[j…]·L_k[j]ᵀ. */
const subtractPanel = async (engine: Engine, { n, starts, data }: Panels, k: number, j: number) => {
  const w = starts[k + 1] - starts[k]
  const rows = data[k].subarray((starts[j] - starts[k]) * w)
  const left = { data: rows, rows: n - starts[j], columns: w }
  const right = { data: rows, rows: starts[j + 1] - starts[j], columns: w }
  await accumulate(engine, 'NT', left, right, data[j], -1)
}

/**
 * Replaces L by its inverse, panel by panel: those behind a panel do not need it any more.
 * @param diagonal the negated inverses of L's diagonal blocks, from `factorPanels`
 */
export const invertPanels = async (engine: Engine, l: Panels, diagonal: readonly Float32Array[]): Promise<void> => {
  for (let j = 0; j < l.data.length; j++) l.data[j] = await invertPanel(engine, l, diagonal, j)
}

/** Forward substitution down panel j: X_kj = −L_kk⁻¹·Σ_{i<k} L_ki X_ij; the sums gather in place, negated. */
const invertPanel = async (engine: Engine, l: Panels, diagonal: readonly Float32Array[], j: number) => {
  const { n, starts } = l
  const w = starts[j + 1] - starts[j]
  const x = new Float32Array((n - starts[j]) * w)
  for (let i = 0; i < w * w; i++) x[i] = -diagonal[j][i]
  for (let k = j; k < diagonal.length; k++) {
    const height = starts[k + 1] - starts[k]
    const block = x.subarray((starts[k] - starts[j]) * w, (starts[k + 1] - starts[j]) * w)
    if (k > j) {
      const sum = { data: block.slice(), rows: height, columns: w }
      await multiply(engine, 'NN', { data: diagonal[k], rows: height, columns: height }, sum, block, -1)
    }
    const below = n - starts[k + 1]
    const left = { data: l.data[k].subarray(height * height), rows: below, columns: height }
    const solved = { data: block, rows: height, columns: w }
    if (below > 0) await accumulate(engine, 'NN', left, solved, x.subarray((starts[k + 1] - starts[j]) * w), -1)
  }
  return x
}
