/**
 * Coordinate descent on codes, as one more sweep of error feedback. A pass visits the columns in order and rounds
 * x_i = w_i + Σ_{j≠i} (w_j − q_j)·H_ji / H_ii, each q_j as it is by then: the code of least tr(ΔW·H·ΔWᵀ), all others as they are.
 * With H = L + T, L strictly lower and T upper with the diagonal, what comes from columns before i is a sweep x = t − Σ e·U, e = x − q, with
 * the unit upper factor U = diag(H)·T⁻¹; what comes from those after it lies in the sweep's target t = W + (W − Q)·L·T⁻¹.
 */
import { reversedColumns, reversedPanels } from './cholesky.ts'
import { type Panels, writePanels } from './panels.ts'
import { multiply, square } from './products.ts'
import type { Engine } from './session.ts'
import { invertLower } from './triangular.ts'

export interface Descent {
  /** U with rows and columns reversed, as `factorize` gives its factor. */
  readonly reversedU: Panels
  /** L·T⁻¹, [n, n]. */
  readonly later: Float32Array
}

/** @param hessian H, [n, n], symmetric, with a positive diagonal; products with T⁻¹ in float32 */
export const prepareDescent = async (engine: Engine, hessian: Float32Array): Promise<Descent> => {
  const n = Math.sqrt(hessian.length)
  const reversed = reversedPanels(hessian, reversedColumns(n))
  await invertLower(engine, reversed)
  const inverse = new Float32Array(n * n)
  writePanels(reversed, inverse)
  const lower = new Float32Array(n * n) // columns reversed
  for (let row = 0; row < n; row++)
    for (let column = 0; column < row; column++) lower[row * n + n - 1 - column] = hessian[row * n + column]
  const product = new Float32Array(n * n)
  await multiply(engine, 'NN', square(lower), square(inverse), product, -1)
  for (let row = 0; row < n * n; row += n)
    for (let column = 0; column < n; column++) lower[row + column] = -product[row + n - 1 - column]
  timesDiagonal(reversed, hessian)
  return { reversedU: reversed, later: lower }
}

/** diag(H)·T⁻¹ from T⁻¹, both reversed. */
const timesDiagonal = ({ n, starts, data }: Panels, hessian: Float32Array): void => {
  for (const [k, panel] of data.entries()) {
    const width = starts[k + 1] - starts[k]
    for (let at = 0; at < panel.length; at++) {
      const column = n - 1 - starts[k] - Math.floor(at / width)
      panel[at] *= hessian[column * n + column]
    }
  }
}
