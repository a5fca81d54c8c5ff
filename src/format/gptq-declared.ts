/** What config.json (or quantize_config.json) declares about a GPTQ checkpoint. Foreign input: every field is checked. */
import type { Bits } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { isObject } from '../io/is-object.ts'
import { type Fields, fieldOf, flagOf, malformed, shownValue, wordOf } from './config-fields.ts'
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

/**
 * The GPTQ part of a config, or undefined when there is none. transformers asks for `quant_method`; a bare quantize_config.json of
 * AutoGPTQ has no such key, and is known by its `bits`, `group_size` and `desc_act`.
 */
const gptqFields = (config: unknown): Fields | undefined => {
  if (!isObject(config)) return undefined
  const nested = fieldOf(config, 'quantization_config')
  if (nested !== undefined && !isObject(nested)) throw malformed('quantization_config', nested, 'an object')
  const fields = nested ?? config
  const method = wordOf(fields, 'quant_method')
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
  const legacy = wordOf(fields, 'checkpoint_format')
  const format = wordOf(fields, 'format')
  if (legacy !== undefined && format !== undefined && legacy !== format)
    throw malformed('format', format, `${shownValue(legacy)}, as checkpoint_format says`)
  const name = legacy ?? format ?? 'gptq'
  const version = versions.get(name)
  if (version) return version
  throw new QuantizeError(
    'unsupported',
    `GPTQ checkpoint_format ${shownValue(name)} cannot be read; gptq and gptq_v2 can`,
  )
}

const groupSizeOf = (fields: Fields): number | undefined => {
  const value = fieldOf(fields, 'group_size')
  if (value === undefined) return undefined
  if (!Number.isSafeInteger(value) || ((value as number) < 1 && value !== -1))
    throw malformed('group_size', value, '-1 or a positive integer')
  return value as number
}

const hasOverrides = (fields: Fields): boolean => {
  const dynamic = fieldOf(fields, 'dynamic') ?? {}
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
  const bits = fieldOf(fields, 'bits')
  if (!isBits(bits)) throw malformed('bits', bits, '2, 3, 4 or 8')
  const packed = wordOf(fields, 'pack_dtype') ?? 'int32'
  if (packed !== 'int32')
    throw new QuantizeError('unsupported', `GPTQ pack_dtype ${shownValue(packed)} cannot be read; int32 can`)
  return {
    version,
    bits,
    groupSize: groupSizeOf(fields),
    symmetric: flagOf(fields, 'sym', true),
    descAct: flagOf(fields, 'desc_act', false),
    staticGroups: flagOf(fields, 'static_groups', false),
    overrides: hasOverrides(fields),
  }
}
