/** Rows of the result, and the one table of them. */
import Table from 'cli-table3'
import type { LoaderAnswer } from './programs.ts'

export interface Row {
  readonly model: string
  readonly format: string
  readonly bits: string
  /** Grid and group, and options beyond. */
  readonly scheme: string
  readonly bitsPerWeight?: number
  readonly formula?: number
  /** Bytes of tensors of fixed size, a linear. */
  readonly fixedBytes?: number
  readonly ours?: number
  readonly reader: string
  readonly theirs?: number
  /** Largest relative difference of a weight. */
  readonly weights?: number
  readonly verdict: string
  readonly outcome: 'ok' | 'NO' | 'does not fit'
}

/**
 * Of two perplexities. More where the loader rounds weights or sums to fewer bits than float32, and where activations are quantized: a
 * value near a border goes to the other code by the order of a sum, which changes the perplexity of tiny-llama by ± 0.2 %.
 */
export const toleranceOf = ({ precision, activations, tolerance }: LoaderAnswer): number =>
  tolerance ?? (precision === 'float32' && !activations ? 0.001 : 0.005)

/** Of a weight, relative to the largest of its linear: a unit in the last place of the dtype that the loader decodes into. */
export const weightTolerances: Readonly<Record<NonNullable<LoaderAnswer['precision']>, number>> = {
  float32: 2 ** -22,
  float16: 2 ** -10,
  bfloat16: 2 ** -6,
}

const decimals = (value: number | undefined, digits: number): string => value?.toFixed(digits) ?? ''

const percent = ({ ours, theirs }: Row): string =>
  ours === undefined || theirs === undefined ? '' : `${(100 * (theirs / ours - 1)).toFixed(4)} %`

const columns: readonly (readonly [string, (row: Row) => string])[] = [
  ['model', row => row.model],
  ['format', row => row.format],
  ['bits', row => row.bits],
  ['grid/group', row => row.scheme],
  ['bpw', row => decimals(row.bitsPerWeight, 4)],
  ['by formula', row => decimals(row.formula, 4)],
  ['fixed B', row => decimals(row.fixedBytes, 0)],
  ['ours', row => decimals(row.ours, 4)],
  ['loader', row => row.reader],
  ['loader says', row => decimals(row.theirs, 4)],
  ['difference', percent],
  ['weights', row => row.weights?.toExponential(1) ?? ''],
  ['verdict', row => [row.outcome, row.verdict].filter(Boolean).join(': ')],
]

export const asLine = (row: Row): string => columns.map(([, cell]) => cell(row)).join(' | ')

export const asTable = (rows: readonly Row[]): string => {
  const head = columns.map(([name]) => name)
  const table = new Table({ head, style: { head: [], border: [], compact: true } })
  table.push(...rows.map(row => columns.map(([, cell]) => cell(row))))
  return table.toString()
}
