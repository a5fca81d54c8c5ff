import type { Columns } from '../encoder.ts'
import { fitAll, fitColumns, type Rounding } from './rounding.ts'

/**
 * Error vectors E of a block with E · U_block = target − decoded, by forward substitution; for a block of one column a division by U_jj.
 * `at`: the block's first position, n: in.
 */
const solveUpper = (target: Columns, decoded: Columns, U: Float32Array, at: number, n: number): Float32Array[] => {
  const errors: Float32Array[] = []
  for (const [b, weights] of target.entries()) {
    const column = at + b
    errors.push(
      weights.map((weight, row) => {
        let difference = Math.fround(weight - decoded[b][row])
        for (let a = 0; a < b; a++)
          difference = Math.fround(difference - Math.fround(errors[a][row] * U[(at + a) * n + column]))
        return difference / U[column * n + column]
      }),
    )
  }
  return errors
}

/** w ← w − e · u */
const subtractScaled = (weights: Float32Array, errors: Float32Array, u: number): void => {
  for (let row = 0; row < weights.length; row++) weights[row] = Math.fround(weights[row] - Math.fround(errors[row] * u))
}

/**
 * GPTQ (Frantar et al. 2023, algorithm 1): code a column, spread its error over the columns still to come.
 * W [out, in] is overwritten. U [in, in] is upper triangular with inv(H) = UᵀU. This is the reference; the kernel
 * src/engine/kernel/assembly/sweep.ts does the same float32 operations.
 */
export const gptq: Rounding = {
  name: 'gptq',
  needs: ['gram'],
  round(columns, sweep, encoder) {
    const { order, factor: U } = sweep
    if (!U) throw new Error('gptq needs the factor of the inverse Hessian')
    const n = order.length
    const losses = new Float64Array(columns[0].length)
    if (!sweep.fitsInSweep) fitAll(columns, sweep, encoder)
    for (let at = 0; at < n; at += encoder.step) {
      if (sweep.fitsInSweep && at % encoder.fitUnit === 0)
        fitColumns(at / encoder.fitUnit, order.subarray(at, at + encoder.fitUnit), columns, sweep, encoder)
      const target = Array.from(order.subarray(at, at + encoder.step), column => columns[column])
      const errors = solveUpper(target, encoder.encode(order[at], target), U, at, n)
      for (const [a, error] of errors.entries()) {
        for (let k = at + encoder.step; k < n; k++) subtractScaled(columns[order[k]], error, U[(at + a) * n + k])
        for (let row = 0; row < error.length; row++) losses[row] += error[row] * error[row]
      }
    }
    return losses.reduce((total, loss) => total + loss, 0)
  },
}
