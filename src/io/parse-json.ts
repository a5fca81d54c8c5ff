import { QuantizeError } from '../errors.ts'
import { printable } from './printable.ts'

/** Nesting of objects and lists; a published tokenizer.json or report holds about ten. */
const maxDepth = 64

/** The place of the first bracket that opens a value nested deeper than the limit, or -1. Strings are passed over; nothing else is checked. */
const tooDeepAt = (text: string): number => {
  let depth = 0
  for (let i = 0; i < text.length; i++) {
    const character = text.charCodeAt(i)
    if (character === 0x22 /* " */)
      for (i++; i < text.length && text.charCodeAt(i) !== 0x22; i++) if (text.charCodeAt(i) === 0x5c /* \ */) i++
    if (character === 0x5b /* [ */ || character === 0x7b /* { */) {
      if (++depth > maxDepth) return i
    } else if (character === 0x5d /* ] */ || character === 0x7d /* } */) depth--
  }
  return -1
}

/**
 * JSON.parse for text of strangers: what comes out may be walked recursively.
 * @param path the file, for messages
 * @throws QuantizeError bad-input when it is not JSON, or nested deeper than 64
 */
export const parseJson = (text: string, path: string): unknown => {
  if (tooDeepAt(text) >= 0)
    throw new QuantizeError('bad-input', `${printable(path)}: its JSON is nested deeper than ${maxDepth}`)
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new QuantizeError('bad-input', `${printable(path)} is not JSON: ${printable((cause as Error).message)}`, {
      cause,
    })
  }
}

/** As parseJson, for a file that holds one object. */
export const parseJsonObject = (text: string, path: string): Readonly<Record<string, unknown>> => {
  const value = parseJson(text, path)
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  throw new QuantizeError('bad-input', `${printable(path)} must hold a JSON object`)
}
