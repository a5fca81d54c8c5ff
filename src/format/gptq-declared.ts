/** What config.json (or quantize_config.json) declares about a GPTQ checkpoint. Foreign input: every field is checked. */
import type { Bits } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'
import { isBits } from './gptq-layout.ts'

export interface GptqDeclaration {
  readonly version: 1 | 2
  readonly bits: Bits
  /** Inputs of a group; −1: one group for all; undefined: not said, to be seen from the tensors. */
  readonly groupSize: number | undefined
  readonly symmetric: boolean
  readonly descAct: boolean
  readonly staticGroups: boolean
  /** Some linears differ from these values (`dynamic`): their tensors' shapes say how. */
  readonly overrides: boolean
}

type Fields = Readonly<Record<string, unknown>>

const isObject = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const shown = (value: unknown): string => {
  const text = JSON.stringify(value) ?? String(value)
  return printable(text.length > 40 ? `${text.slice(0, 40)}…` : text)
}

const malformed = (field: string, value: unknown, expected: string): QuantizeError =>
  new QuantizeError('bad-input', `quantization config: ${field} is ${shown(value)}; expected ${expected}`)

/** A missing field and null are the same: writers disagree. */
const given = (fields: Fields, field: string): unknown =>
  Object.hasOwn(fields, field) ? (fields[field] ?? undefined) : undefined

const flag = (fields: Fields, field: string, missing: boolean): boolean => {
  const value = given(fields, field) ?? missing
  if (typeof value !== 'boolean') throw malformed(field, value, 'true or false')
  return value
}

const word = (fields: Fields, field: string): string | undefined => {
  const value = given(fields, field)
  if (value !== undefined && typeof value !== 'string') throw malformed(field, value, 'a string')
  return value?.toLowerCase()
}

/**
 * The GPTQ part of a config, or undefined when there is none. transformers asks for `quant_method`; a bare quantize_config.json of
 * AutoGPTQ has no such key, and is known by its `bits`, `group_size` and `desc_act`.
 */
const gptqFields = (config: unknown): Fields | undefined => {
  if (!isObject(config)) return undefined
  const nested = given(config, 'quantization_config')
  if (nested !== undefined && !isObject(nested)) throw malformed('quantization_config', nested, 'an object')
  const fields = nested ?? config
  const method = word(fields, 'quant_method')
  if (method !== undefined) return method === 'gptq' ? fields : undefined
  const legacy = !nested && ['bits', 'group_size', 'desc_act'].every(field => Object.hasOwn(config, field))
  return legacy ? fields : undefined
}

const versions: ReadonlyMap<string, 1 | 2> = new Map([
  ['gptq', 1],
  ['gptq_v2', 2],
])

/** `checkpoint_format` is AutoGPTQ's key, `format` transformers' and GPTQModel's; neither: version 1. */
const versionOf = (fields: Fields): 1 | 2 => {
  const legacy = word(fields, 'checkpoint_format')
  const format = word(fields, 'format')
  if (legacy !== undefined && format !== undefined && legacy !== format)
    throw malformed('format', format, `${shown(legacy)}, as checkpoint_format says`)
  const name = legacy ?? format ?? 'gptq'
  const version = versions.get(name)
  if (version) return version
  throw new QuantizeError('unsupported', `GPTQ checkpoint_format ${shown(name)} cannot be read; gptq and gptq_v2 can`)
}

const groupSizeOf = (fields: Fields): number | undefined => {
  const value = given(fields, 'group_size')
  if (value === undefined) return undefined
  if (!Number.isSafeInteger(value) || ((value as number) < 1 && value !== -1))
    throw malformed('group_size', value, '-1 or a positive integer')
  return value as number
}

const hasOverrides = (fields: Fields): boolean => {
  const dynamic = given(fields, 'dynamic') ?? {}
  if (!isObject(dynamic)) throw malformed('dynamic', dynamic, 'an object')
  return Object.keys(dynamic).some(pattern => !pattern.startsWith('-:'))
}

/**
 * @returns undefined when the config declares no GPTQ
 * @throws QuantizeError bad-input naming the field that is malformed; unsupported for another packing than gptq and gptq_v2
 */
export const declaredGptq = (config: unknown): GptqDeclaration | undefined => {
  const fields = gptqFields(config)
  if (!fields) return undefined
  const version = versionOf(fields)
  const bits = given(fields, 'bits')
  if (!isBits(bits)) throw malformed('bits', bits, '2, 3, 4 or 8')
  const packed = word(fields, 'pack_dtype') ?? 'int32'
  if (packed !== 'int32')
    throw new QuantizeError('unsupported', `GPTQ pack_dtype ${shown(packed)} cannot be read; int32 can`)
  return {
    version,
    bits,
    groupSize: groupSizeOf(fields),
    symmetric: flag(fields, 'sym', true),
    descAct: flag(fields, 'desc_act', false),
    staticGroups: flag(fields, 'static_groups', false),
    overrides: hasOverrides(fields),
  }
}
