import { z } from 'zod'
import { QuantizeError } from '../errors.ts'
import { parseJson } from '../io/parse-json.ts'
import { printable } from '../io/printable.ts'
import { type Report, reportSchema } from './schema.ts'

export const reportName = 'quantize-report.json'
export const maxReportBytes = 2 ** 26

/**
 * The text of quantize-report.json: fields in the schema's order whatever order they came in, output files by name, linears and kept
 * tensors in the model's order.
 * @throws Error when the report does not hold the schema (a bug)
 */
export const reportJson = (report: Report): string => {
  const ordered = reportSchema.parse(report)
  const outputs = Object.fromEntries(Object.entries(ordered.outputs).sort(([a], [b]) => (a < b ? -1 : 1)))
  return `${JSON.stringify({ ...ordered, outputs }, null, 2)}\n`
}

/**
 * @param path the file, for the error's text
 * @throws QuantizeError bad-input when the text is not a report of a version that we know
 */
export const parseReport = (text: string, path: string): Report => {
  const result = reportSchema.safeParse(parseJson(text, path))
  if (result.success) return result.data
  const [issue] = result.error.issues
  const field = issue.path.length > 0 ? z.core.toDotPath(issue.path) : 'the document'
  const problem = printable(`${field}: ${issue.message}`) // both quote keys of the file
  throw new QuantizeError('bad-input', `${printable(path)}: not a quantize report of schema 1: ${problem}`)
}
