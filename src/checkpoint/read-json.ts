import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'

/** Far larger than any published config.json, quantize_config.json or report. */
const maxConfigBytes = 16_000_000

/**
 * A small JSON file, or undefined when there is none.
 * @throws QuantizeError bad-input when it is not a file, too large or not JSON
 */
export const readJson = (path: string, files: Files): unknown => {
  const stat = files.stat(path)
  if (!stat) return undefined
  if (stat.kind !== 'file') throw new QuantizeError('bad-input', `${path}: is not a file`)
  const text = files.readText(path, maxConfigBytes)
  try {
    return JSON.parse(text)
  } catch (error) {
    const reason = error instanceof RangeError ? 'nested too deeply' : 'not valid JSON'
    throw new QuantizeError('bad-input', `${path}: ${reason}`, { cause: error })
  }
}

/** As readJson, for a file that holds one JSON object. */
export const readJsonObject = (path: string, files: Files): Readonly<Record<string, unknown>> | undefined => {
  const value = readJson(path, files)
  if (value === undefined) return undefined
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new QuantizeError(
      'bad-input',
      `${path}: holds ${Array.isArray(value) ? 'a list' : typeof value}, not an object`,
    )
  return value as Readonly<Record<string, unknown>>
}
