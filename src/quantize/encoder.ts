import type { CodedLinear, Grid, Storage } from '../contracts.ts'
import { type FitRule, fitGroup, fitJointly } from './fit.ts'
import type { Parameters } from './grid/coder.ts'
import { coderOf, middleOf } from './grid/index.ts'

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

export interface ScalarEncoder extends Encoder {
  result(): CodedLinear
}

/** Scales and offsets of all groups, [out, G]. */
export interface GroupParameters {
  readonly scales: Float32Array
  readonly offsets: Float32Array
}

export interface EncoderOptions extends FitRule {
  readonly out: number
  /** [in]: the group of each column. */
  readonly groupOf: Int32Array
  readonly fitUnit: number
  readonly groups: number
  /** All rows share their parameters. */
  readonly joint: boolean
  /** Parameters that are settled before: `fit` then leaves them. */
  readonly given?: GroupParameters
}

const none = new Float32Array(0)

/** Parameters as a linear holds them. */
export const codedParameters = (
  grid: Grid,
  { decode }: Storage,
  { scales, offsets }: GroupParameters,
): Pick<CodedLinear, 'scales' | 'zeros' | 'biases'> => {
  if (grid.kind === 'levels') return { scales, zeros: none, biases: none }
  if (decode !== 'biased') return { scales, zeros: offsets, biases: none }
  const biases = grid.symmetric ? scales.map(scale => -middleOf(grid) * scale) : offsets
  return { scales, zeros: none, biases }
}

/** Codes and parameters as the linear that their storage decodes. */
export const codedLinear = (
  grid: Grid,
  storage: Storage,
  shape: Pick<CodedLinear, 'out' | 'in' | 'codes' | 'groupOf'>,
  parameters: GroupParameters,
): CodedLinear => {
  const { out, in: inputs, codes, groupOf } = shape
  const parts = { out, in: inputs, bits: grid.bits, codes, groupOf, ...codedParameters(grid, storage, parameters) }
  if (grid.kind === 'levels') return { decode: 'levels', ...parts, levels: grid.levels }
  return { decode: storage.decode === 'biased' ? 'biased' : 'affine', ...parts, levels: none }
}

/** Columns → the same weights as rows. */
const rowsOf = (columns: Columns, out: number): Float32Array[] =>
  Array.from({ length: out }, (_, row) => Float32Array.from(columns, column => column[row]))

/** Encoder of the scalar grids: the reference of the kernels. */
export const scalarEncoder = (options: EncoderOptions): ScalarEncoder => {
  const { out, groupOf, fitUnit, groups, joint, given, ...rule } = options
  const inputs = groupOf.length
  const coder = coderOf(rule.grid, rule.storage)
  const codes = new Uint8Array(out * inputs)
  const scales = given?.scales ?? new Float32Array(out * groups)
  const offsets = given?.offsets ?? new Float32Array(out * groups)
  const parametersAt = (at: number): Parameters => ({ scale: scales[at], offset: offsets[at] })
  return {
    step: 1,
    fitUnit,
    groups,
    fit(group, columns, weighting) {
      if (given) return
      const rows = rowsOf(columns, out)
      const shared = joint ? fitJointly(rows, weighting, rule) : undefined
      for (const [row, weights] of rows.entries()) {
        const { scale, offset } = shared ?? fitGroup(weights, weighting, rule)
        scales[row * groups + group] = scale
        offsets[row * groups + group] = offset
      }
    },
    encode(column, [weights]) {
      const decoded = weights.map((weight, row) => {
        const parameters = parametersAt(row * groups + groupOf[column])
        const code = coder.encode(weight, parameters)
        codes[row * inputs + column] = code
        return coder.decode(code, parameters)
      })
      return [decoded]
    },
    result: () => codedLinear(rule.grid, rule.storage, { out, in: inputs, codes, groupOf }, { scales, offsets }),
  }
}
