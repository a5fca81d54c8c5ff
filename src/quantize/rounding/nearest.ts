import { fitAll, type Rounding } from './rounding.ts'

/** Round to nearest: every weight to the code nearest to it. */
export const nearest: Rounding = {
  name: 'nearest',
  needs: [],
  round(columns, sweep, encoder) {
    fitAll(columns, sweep, encoder)
    for (let column = 0; column < columns.length; column += encoder.step)
      encoder.encode(column, columns.slice(column, column + encoder.step))
    return undefined
  },
}
