import { setImmediate } from 'node:timers/promises'
import {
  beyondTolerance,
  type Comparison,
  compareCheckpoints,
  isIdentical,
  type TensorComparison,
} from '../../compare.ts'
import { isDecoded } from '../../decoded-checkpoint.ts'
import { QuantizeError } from '../../errors.ts'
import { nodeFiles } from '../../io/files.ts'
import { printable } from '../../io/printable.ts'
import type { CompareOptions } from '../parse.ts'
import { openSource, type Source } from '../run.ts'
import type { Ui } from '../ui.ts'

const formatOf = ({ checkpoint }: Source): string | null => (isDecoded(checkpoint) ? checkpoint.format.name : null)

/** @throws QuantizeError gate, after its table or document, when the tolerance does not hold */
export const compare = async ({ a, b, tolerance, json }: CompareOptions, ui: Ui): Promise<void> => {
  const opened: Source[] = []
  const open = (path: string): Source => {
    const source = openSource(path, nodeFiles)
    opened.push(source)
    return source
  }
  try {
    const [from, to] = [open(a), open(b)]
    const comparison = await compareWithProgress(from, to, ui)
    const beyond = tolerance === undefined ? [] : beyondTolerance(comparison, tolerance)
    const formats = { a: formatOf(from), b: formatOf(to) }
    if (json) ui.json({ a, b, formats, tolerance: tolerance ?? null, beyond, ...comparison })
    else ui.data(comparisonText(a, b, comparison))
    if (beyond.length > 0) throw gate(tolerance!, beyond)
  } finally {
    for (const { checkpoint } of opened) checkpoint.close()
  }
}

const compareWithProgress = async (a: Source, b: Source, ui: Ui): Promise<Comparison> => {
  let begun = false
  const comparison = await compareCheckpoints(a.checkpoint, b.checkpoint, async (done, of, name) => {
    await setImmediate() // a signal is heard between two tensors
    ui.signal.throwIfAborted()
    if (!begun) ui.report({ kind: 'start', totalWork: of, title: 'compare' })
    begun = true
    ui.report({ kind: 'work', done, label: printable(name) })
  })
  if (begun) ui.report({ kind: 'end' })
  return comparison
}

const gate = (tolerance: number, beyond: readonly string[]): QuantizeError => {
  const [count, verb] = beyond.length === 1 ? ['1 tensor', 'does'] : [`${beyond.length} tensors`, 'do']
  return new QuantizeError(
    'gate',
    `--tolerance ${tolerance}: ${count} ${verb} not agree; the first: ${printable(beyond[0])}`,
  )
}

const shapeText = (shape: readonly number[]): string => `[${shape.join(', ')}]`

/** What there is to say instead of figures, or beside them. */
const remark = (tensor: TensorComparison): string => {
  if (isIdentical(tensor)) return 'identical'
  if (tensor.by === 'none')
    return tensor.differs === 'shape' ? `against ${shapeText(tensor.b.shape)}` : 'not comparable'
  if (tensor.by === 'bytes') return `${tensor.differingBytes} bytes differ`
  return tensor.notFinite > 0 ? `${tensor.notFinite} not finite on one side` : ''
}

/** SQNR, largest error, cosine, padded. */
const figures = (tensor: TensorComparison): string => {
  if (tensor.by !== 'values' || isIdentical(tensor)) return ''
  const { sqnrDb, maxAbsError, cosine } = tensor
  return figureCells(sqnrDb?.toFixed(2) ?? '-', maxAbsError.toExponential(3), cosine?.toFixed(6) ?? '-')
}

const figureCells = (sqnr: string, error: string, cosine: string): string =>
  [sqnr.padStart(8), error.padStart(9), cosine.padStart(9)].join('  ')

const tableLines = (tensors: readonly TensorComparison[]): readonly string[] => {
  const rows = [
    ['tensor', 'shape', 'a', 'b', figureCells('SQNR dB', 'max error', 'cosine')],
    ...tensors.map(tensor => {
      const { name, a, b } = tensor
      const rest = [figures(tensor), remark(tensor)].filter(text => text !== '').join('  ')
      return [printable(name), shapeText(a.shape), a.stored, b.stored, rest]
    }),
  ]
  const widths = [0, 1, 2, 3].map(column => rows.reduce((most, row) => Math.max(most, row[column].length), 0))
  return rows.map(row => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  '))
}

const comparisonText = (a: string, b: string, comparison: Comparison): string => {
  const { tensors, onlyInA, onlyInB, sqnrDb, maxAbsError } = comparison
  const identical = tensors.filter(isIdentical).length
  const without = tensors.filter(({ by }) => by === 'none').length
  const apart = without > 0 ? `, ${without} not comparable` : ''
  return [
    ...(tensors.length > 0 ? tableLines(tensors) : []),
    ...onlyInA.map(name => `only in ${a}: ${printable(name)}`),
    ...onlyInB.map(name => `only in ${b}: ${printable(name)}`),
    '',
    `${tensors.length} tensors in both, ${identical} of them identical${apart}; largest error ${maxAbsError.toExponential(3)}, SQNR of all ${sqnrDb === null ? '-' : `${sqnrDb.toFixed(2)} dB`}`,
  ].join('\n')
}
