import type { CodedLinear } from '../contracts.ts'
import { type FitRule, fitGroup, fitJointly } from './fit.ts'
import { type Affine, decode, encode, maxCodeOf } from './grid/uniform.ts'

/** Columns of a matrix: vectors of `out` weights. */
export type Columns = readonly Float32Array[]

/**
 * Grid, granularity and clip, bound to one linear by its format's storage. A rounding sees only this, so error feedback runs over any grid.
 * The codes and their parameters collect inside.
 */
export interface Encoder {
  /** Columns that are coded at once: 1, or the dimension of a vector grid (which then needs the natural column order). */
  readonly step: number
  /** Columns of a group. */
  readonly fitUnit: number
  readonly groups: number
  /** Fits a group's parameters for all rows from its columns' present values; weighting: one a column. */
  fit(group: number, columns: Columns, weighting: Float32Array): void
  /** Stores the codes of `step` columns, the first of which is `columnStart`, and returns the values that they decode to. Their group has been fitted. */
  encode(columnStart: number, columns: Columns): Columns
}

export interface AffineEncoder extends Encoder {
  result(): CodedLinear
}

export interface EncoderOptions extends FitRule {
  readonly out: number
  /** [in]: the group of each column. */
  readonly groupOf: Int32Array
  readonly fitUnit: number
  /** All rows share their parameters. */
  readonly joint: boolean
}

/** Columns → the same weights as rows. */
const rowsOf = (columns: Columns, out: number): Float32Array[] =>
  Array.from({ length: out }, (_, row) => Float32Array.from(columns, column => column[row]))

/** Encoder of the uniform grids: the reference of the kernels. */
export const affineEncoder = ({ out, groupOf, fitUnit, joint, ...rule }: EncoderOptions): AffineEncoder => {
  const inputs = groupOf.length
  const groups = inputs / fitUnit
  const maxCode = maxCodeOf(rule.grid)
  const codes = new Uint8Array(out * inputs)
  const scales = new Float32Array(out * groups)
  const zeros = new Float32Array(out * groups)
  const parametersAt = (at: number): Affine => ({ scale: scales[at], zero: zeros[at] })
  return {
    step: 1,
    fitUnit,
    groups,
    fit(group, columns, weighting) {
      const rows = rowsOf(columns, out)
      const shared = joint ? fitJointly(rows, weighting, rule) : undefined
      for (const [row, weights] of rows.entries()) {
        const { scale, zero } = shared ?? fitGroup(weights, weighting, rule)
        scales[row * groups + group] = scale
        zeros[row * groups + group] = zero
      }
    },
    encode(column, [weights]) {
      const decoded = weights.map((weight, row) => {
        const parameters = parametersAt(row * groups + groupOf[column])
        const code = encode(weight, parameters, maxCode)
        codes[row * inputs + column] = code
        return decode(code, parameters)
      })
      return [decoded]
    },
    result: () => ({
      decode: 'affine',
      out,
      in: inputs,
      bits: rule.grid.bits,
      codes,
      scales,
      zeros,
      biases: new Float32Array(0),
      levels: new Float32Array(0),
      groupOf,
    }),
  }
}
