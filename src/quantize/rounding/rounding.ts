import type { Columns, Encoder } from '../encoder.ts'

/** What a sweep walks over and with what it compensates. */
export interface Sweep {
  /** [in]: the column at each position. */
  readonly order: Int32Array
  /** [in], natural order, largest value 1: what a squared error of each column counts in the clip's search. */
  readonly weighting: Float32Array
  /** Groups are runs of `order`, fitted when the sweep enters them; otherwise runs of natural order, fitted before it. */
  readonly fitsInSweep: boolean
  /** [in, in] upper triangular, inv(H) = UᵀU, rows and columns in the sweep's order. Only for roundings with feedback. */
  readonly factor?: Float32Array
}

export interface Rounding {
  readonly name: string
  /** Statistics that it needs. */
  readonly needs: readonly 'gram'[]
  /**
   * Codes all columns through the encoder.
   * @param columns [in] vectors of [out], natural order; overwritten by a rounding with feedback
   * @returns Σ e² = tr(ΔW H ΔWᵀ), when there is an H
   */
  round(columns: Columns, sweep: Sweep, encoder: Encoder): number | undefined
}

/** Fits the group whose columns are given. */
export const fitColumns = (
  group: number,
  members: Int32Array,
  columns: Columns,
  sweep: Sweep,
  encoder: Encoder,
): void =>
  encoder.fit(
    group,
    Array.from(members, column => columns[column]),
    Float32Array.from(members, column => sweep.weighting[column]),
  )

/** Fits all groups, runs of the natural order, from the columns as they are. */
export const fitAll = (columns: Columns, sweep: Sweep, encoder: Encoder): void => {
  for (let group = 0; group < encoder.groups; group++) {
    const members = Int32Array.from({ length: encoder.fitUnit }, (_, i) => group * encoder.fitUnit + i)
    fitColumns(group, members, columns, sweep, encoder)
  }
}
