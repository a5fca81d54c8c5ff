/** Fields of a quantization config. Foreign input: each is checked before use; a missing field and null are the same, since writers disagree. */
import type { Configs } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { isObject } from '../io/is-object.ts'
import { printable } from '../io/printable.ts'

export type Fields = Readonly<Record<string, unknown>>

const textOf = (value: unknown): string => {
  try {
    return JSON.stringify(value) ?? String(value)
  } catch {
    return 'nested too deeply to be shown'
  }
}

export const shownValue = (value: unknown): string => {
  const text = textOf(value)
  return printable(text.length > 40 ? `${text.slice(0, 40)}…` : text)
}

export const malformed = (field: string, value: unknown, expected: string): QuantizeError =>
  new QuantizeError('bad-input', `quantization config: ${field} is ${shownValue(value)}; expected ${expected}`)

export const fieldOf = (fields: Fields, name: string): unknown =>
  Object.hasOwn(fields, name) ? (fields[name] ?? undefined) : undefined

export const flagOf = (fields: Fields, name: string, missing: boolean): boolean => {
  const value = fieldOf(fields, name) ?? missing
  if (typeof value !== 'boolean') throw malformed(name, value, 'true or false')
  return value
}

export const wordOf = (fields: Fields, name: string): string | undefined => {
  const value = fieldOf(fields, name)
  if (value !== undefined && typeof value !== 'string') throw malformed(name, value, 'a string')
  return value
}

/** A whole number in [low, high]. */
export const wholeOf = (fields: Fields, name: string, low: number, high: number): number | undefined => {
  const value = fieldOf(fields, name)
  if (value === undefined) return undefined
  if (typeof value === 'number' && Number.isInteger(value) && value >= low && value <= high) return value
  throw malformed(name, value, `a whole number from ${low} to ${high}`)
}

export const objectOf = (fields: Fields, name: string): Fields | undefined => {
  const value = fieldOf(fields, name)
  if (value !== undefined && !isObject(value)) throw malformed(name, value, 'an object')
  return value
}

/**
 * The `quantization_config` of config.json (or `quantize_config.json`, `quant_config.json`) whose `quant_method` is `method`; undefined when
 * there is none.
 */
export const declaredFields = (configs: Configs, method: string): Fields | undefined => {
  const config = configs['config.json']
  const nested = isObject(config) ? objectOf(config, 'quantization_config') : undefined
  const beside = nested ?? configs['quantize_config.json'] ?? configs['quant_config.json']
  if (!isObject(beside)) return undefined
  return wordOf(beside, 'quant_method')?.toLowerCase() === method ? beside : undefined
}

export const jsonText = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`
