import { z } from 'zod'
import { QuantizeError } from '../errors.ts'
import { type Report, reportSchema } from './schema.ts'

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
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new QuantizeError('bad-input', `${path}: not valid JSON`, { cause: error })
  }
  const result = reportSchema.safeParse(value)
  if (result.success) return result.data
  const [issue] = result.error.issues
  const field = issue.path.length > 0 ? z.core.toDotPath(issue.path) : 'the document'
  throw new QuantizeError('bad-input', `${path}: not a quantize report of schema 1: ${field}: ${issue.message}`)
}
