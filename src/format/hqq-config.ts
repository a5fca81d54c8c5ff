/** `quantization_config` of an HQQ checkpoint as transformers 4 reads it (quantizers/quantizer_hqq.py, integrations/hqq.py). */
import type { AssembleFacts, Configs, LinearScheme } from '../contracts.ts'
import { declaredFields, type Fields, fieldOf, jsonText, malformed, objectOf } from './config-fields.ts'

/** Whether the config declares HQQ. @throws QuantizeError bad-input for a malformed field */
export const declaresHqq = (configs: Configs): boolean => {
  const fields = declaredFields(configs, 'hqq')
  if (!fields) return false
  objectOf(fields, 'quant_config')
  const skipped = fieldOf(fields, 'skip_modules') ?? []
  if (!Array.isArray(skipped) || !skipped.every(name => typeof name === 'string'))
    throw malformed('skip_modules', skipped, 'a list of names')
  return true
}

/** A module's name without `model`, `layers` and numbers: `self_attn.q_proj`. Linears of one tag share a config. */
const tagOf = (name: string): string =>
  name
    .split('.')
    .filter(part => part !== 'model' && part !== 'layers' && !/^\d+$/.test(part))
    .join('.')

/** `group_size` null: one group for a row. */
const paramsOf = ({ bits, group }: LinearScheme): Fields => ({
  weight_quant_params: {
    nbits: bits,
    channel_wise: true,
    group_size: typeof group === 'number' ? group : null,
    optimize: false,
    round_zero: true,
    axis: 1,
    view_as_float: false,
  },
  scale_quant_params: null,
  zero_quant_params: null,
  offload_meta: false,
})

/** One config where all linears agree, else one a tag. Where blocks differ within a tag the first counts: loaders go by the tensors. */
const quantConfig = (linears: readonly LinearScheme[]): Fields => {
  const byTag = new Map<string, Fields>()
  for (const linear of linears) {
    const tag = tagOf(linear.name)
    if (!byTag.has(tag)) byTag.set(tag, paramsOf(linear))
  }
  const uniform = new Set(linears.map(linear => JSON.stringify(paramsOf(linear)))).size === 1
  return uniform ? paramsOf(linears[0]) : Object.fromEntries(byTag)
}

/** Format.assemble. Modules that are not quantized are all named, since the loader waits for the state of every other linear. */
export const assembleHqq = (
  sourceConfig: Fields | undefined,
  { linears, kept }: AssembleFacts,
): ReadonlyMap<string, string> => {
  const head = linears.some(({ role }) => role === 'head')
  const quantization = {
    quant_method: 'hqq',
    quant_config: quantConfig(linears),
    skip_modules: [...(head ? [] : ['lm_head']), ...kept],
  }
  if (!sourceConfig) return new Map([['quantize_config.json', jsonText(quantization)]])
  return new Map([['config.json', jsonText({ ...sourceConfig, quantization_config: quantization })]])
}
