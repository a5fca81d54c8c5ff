/** The report as a person reads it in a terminal: one row for each kind of linear (q_proj, k_proj, …), then the totals. */
import { printable } from '../io/printable.ts'
import { plural } from '../plural.ts'
import type { LinearReport, Report } from './schema.ts'

export interface TableOptions {
  /** Columns of the terminal; lines are never longer. */
  readonly width: number
  /** Styles; plain text without. */
  readonly style?: { readonly heading: (text: string) => string; readonly warning: (text: string) => string }
}

type Align = 'left' | 'right'

interface Column {
  readonly title: string
  readonly align: Align
  readonly cell: (linears: readonly LinearReport[]) => string
}

const kindOf = ({ name }: LinearReport): string => printable(name.slice(name.lastIndexOf('.') + 1))

const distinct = (values: readonly (string | number)[]): string => [...new Set(values)].join('/')

const mean = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0) / values.length

const known = (linears: readonly LinearReport[], field: 'sqnrDb' | 'relativeOutputError'): number[] =>
  linears.map(linear => linear[field]).filter(value => value !== null)

const orDash = (
  values: readonly number[],
  pick: (values: readonly number[]) => number,
  show: (value: number) => string,
): string => (values.length > 0 ? show(pick(values)) : '-')

const least = (values: readonly number[]): number => values.reduce((a, b) => Math.min(a, b))
const most = (values: readonly number[]): number => values.reduce((a, b) => Math.max(a, b))
const oneDecimal = (value: number): string => value.toFixed(1)
const share = (value: number): string => (value === 0 || value >= 1e-4 ? value.toFixed(5) : value.toExponential(1))

const weightsOf = ({ shape }: LinearReport): number => shape[0] * shape[1]

const meanBitsPerWeight = (linears: readonly LinearReport[]): number => {
  const weights = linears.reduce((total, linear) => total + weightsOf(linear), 0)
  return linears.reduce((total, linear) => total + linear.bitsPerWeight * weightsOf(linear), 0) / weights
}

/** By output error where it is known, else by SQNR; ties: the first. */
const worstOf = (linears: readonly LinearReport[]): LinearReport => {
  const badness = ({ relativeOutputError, sqnrDb }: LinearReport): number =>
    relativeOutputError ?? (sqnrDb === null ? Number.NEGATIVE_INFINITY : -sqnrDb)
  return linears.reduce((worst, linear) => (badness(linear) > badness(worst) ? linear : worst))
}

const columns: readonly Column[] = [
  { title: 'linears', align: 'left', cell: ([first]) => kindOf(first) },
  { title: 'count', align: 'right', cell: linears => String(linears.length) },
  { title: 'bits', align: 'right', cell: linears => distinct(linears.map(({ bits }) => bits)) },
  { title: 'group', align: 'right', cell: linears => distinct(linears.map(({ group }) => group)) },
  { title: 'bpw', align: 'right', cell: linears => meanBitsPerWeight(linears).toFixed(3) },
  { title: 'SQNR dB', align: 'right', cell: linears => orDash(known(linears, 'sqnrDb'), mean, oneDecimal) },
  { title: 'worst', align: 'right', cell: linears => orDash(known(linears, 'sqnrDb'), least, oneDecimal) },
  { title: 'out. error', align: 'right', cell: linears => orDash(known(linears, 'relativeOutputError'), mean, share) },
  { title: 'worst', align: 'right', cell: linears => orDash(known(linears, 'relativeOutputError'), most, share) },
  { title: 'worst linear', align: 'left', cell: linears => printable(worstOf(linears).name) },
]

const gap = '  '

/** Keeps the end of a name, which tells linears apart. */
const shortened = (text: string, width: number): string =>
  text.length <= width ? text : `…${text.slice(text.length - width + 1)}`

const byKind = (linears: readonly LinearReport[]): LinearReport[][] => {
  const kinds = new Map<string, LinearReport[]>()
  for (const linear of linears) {
    const kind = kindOf(linear)
    if (!kinds.has(kind)) kinds.set(kind, [])
    kinds.get(kind)!.push(linear)
  }
  return [...kinds.values()]
}

const padded = (text: string, width: number, align: Align): string =>
  align === 'left' ? text.padEnd(width) : text.padStart(width)

const tableLines = (linears: readonly LinearReport[], width: number): string[] => {
  const rows = [
    columns.map(({ title }) => title),
    ...byKind(linears).map(kind => columns.map(({ cell }) => cell(kind))),
  ]
  const widths = columns.map((_, column) => most(rows.map(row => row[column].length)))
  const last = columns.length - 1
  const before = widths.slice(0, last).reduce((total, size) => total + size + gap.length, 0)
  widths[last] = Math.max(8, Math.min(widths[last], width - before))
  return rows.map(row =>
    row
      .map((cell, column) =>
        padded(column === last ? shortened(cell, widths[last]) : cell, widths[column], columns[column].align),
      )
      .join(gap)
      .trimEnd(),
  )
}

const megabytes = (bytes: number): string =>
  bytes >= 1e9
    ? `${(bytes / 1e9).toFixed(2)} GB`
    : bytes >= 1e6
      ? `${(bytes / 1e6).toFixed(1)} MB`
      : `${(bytes / 1e3).toFixed(1)} kB`

const millions = (weights: number): string =>
  weights >= 1e9
    ? `${(weights / 1e9).toFixed(2)}B`
    : weights >= 1e6
      ? `${(weights / 1e6).toFixed(1)}M`
      : String(weights)

const totalLines = ({ totals, linears, kept, corrected }: Report): string[] => {
  const fellBack = linears.filter(({ fallback }) => fallback !== null).length
  const percent = ((100 * totals.bytesAfter) / (totals.bytesBefore || 1)).toFixed(1)
  return [
    `${plural(totals.linears, 'linear')} of ${millions(totals.quantizedWeights)} weights at ${totals.bitsPerWeight.toFixed(3)} bits a weight; ` +
      `the whole file ${totals.bitsPerWeightOverall.toFixed(3)}`,
    `${megabytes(totals.bytesBefore)} -> ${megabytes(totals.bytesAfter)} (${percent} %) ` +
      `in ${totals.seconds.toFixed(1)} s, peak memory ${megabytes(totals.peakMemoryBytes)}`,
    ...(fellBack > 0
      ? [`${plural(fellBack, 'linear')} rounded to nearest instead of gptq (fallback in the report)`]
      : []),
    ...(corrected.length > 0 ? [`biases corrected for the error of their weights: ${corrected.length}`] : []),
    ...(kept.length > 0 ? [`${plural(kept.length, 'tensor')} kept as they were (reasons in the report)`] : []),
  ]
}

/** Breaks at spaces; a word longer than the line stands alone. */
const wrapped = (text: string, width: number, indent: string): string[] => {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line)
      line = indent + word
    } else line = line === '' ? word : `${line} ${word}`
  }
  return [...lines, line]
}

/** Lines joined by newlines, without one at the end. Nothing is coloured but through `style`. */
export const reportTable = (report: Report, { width, style }: TableOptions): string => {
  const heading = style?.heading ?? (text => text)
  const warning = style?.warning ?? (text => text)
  const [titles, ...rows] = report.linears.length > 0 ? tableLines(report.linears, width) : ['no linear was quantized']
  return [
    heading(titles),
    ...rows,
    '',
    ...totalLines(report).flatMap(line => wrapped(line, width, '  ')),
    ...report.warnings.flatMap(text => wrapped(`warning: ${printable(text)}`, width, '  ')).map(line => warning(line)),
  ].join('\n')
}
