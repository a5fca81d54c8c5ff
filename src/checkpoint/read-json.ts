import { basename, dirname } from 'node:path'
import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { checkedMember } from '../io/member.ts'
import { printable } from '../io/printable.ts'
import { JsonScanner } from './json-scanner.ts'

/** Far larger than any published config.json or quantize_config.json. */
const maxConfigBytes = 16_000_000

/** Refuses what JSON.parse accepts but readers take differently or walk into too deeply. */
const check = (text: string, path: string): void => {
  const scanner = new JsonScanner(new TextEncoder().encode(text), (problem, byte) => {
    throw new QuantizeError('bad-input', `${printable(path)}: not sound JSON: byte ${byte}: ${problem}`)
  })
  scanner.skipDistinct()
  scanner.end()
}

/**
 * A small JSON file of a model's folder, or undefined when there is none.
 * @throws QuantizeError bad-input when it is not a file of that folder, too large, or not JSON, or gives a key twice, or is nested deeper than 64
 */
export const readJson = (path: string, files: Files): unknown => {
  if (!files.stat(path)) return undefined
  const text = files.readText(checkedMember(files, dirname(path), basename(path)), maxConfigBytes)
  check(text, path)
  return JSON.parse(text)
}

/** As readJson, for a file that holds one JSON object. */
export const readJsonObject = (path: string, files: Files): Readonly<Record<string, unknown>> | undefined => {
  const value = readJson(path, files)
  if (value === undefined) return undefined
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new QuantizeError(
      'bad-input',
      `${printable(path)}: holds ${Array.isArray(value) ? 'a list' : typeof value}, not an object`,
    )
  return value as Readonly<Record<string, unknown>>
}
