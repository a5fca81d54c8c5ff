/** The config files of a GPTQ checkpoint: `quantization_config` in config.json, and the same object as quantize_config.json. */
import type { AssembleFacts, LinearScheme } from '../contracts.ts'
import { denseKeys, differingKeys } from './dynamic.ts'

type Json = Readonly<Record<string, unknown>>

const groupSize = ({ group }: Pick<AssembleFacts, 'group'>): number => (typeof group === 'number' ? group : -1)

/** g_idx matters to a loader only where there is more than one group. */
const descAct = ({ actOrder, group }: Pick<AssembleFacts, 'actOrder' | 'group'>): boolean =>
  actOrder === 'g_idx' && typeof group === 'number'

/** What a loader must know of one linear beyond the run's defaults; empty when nothing. */
const overridesOf = (linear: LinearScheme, facts: AssembleFacts): Json => {
  const size = groupSize(facts)
  const expectedGroups = size === -1 ? 1 : Math.ceil(linear.in / size)
  return {
    ...(linear.bits === facts.bits ? {} : { bits: linear.bits }),
    ...(linear.symmetric === facts.symmetric ? {} : { sym: linear.symmetric }),
    ...(linear.groups === expectedGroups ? {} : { group_size: linear.groups === 1 ? -1 : groupSize(linear) }),
    ...(linear.groups === 1 || descAct(linear) === descAct(facts) ? {} : { desc_act: descAct(linear) }),
  }
}

/**
 * `dynamic`, as GPTQModel and vLLM read it: pattern → overrides, `-:` for a module that stays dense, `+:` for one that differs; the
 * first match from the start of the module's name wins. undefined when every linear is as the defaults say.
 */
const dynamicOf = (facts: AssembleFacts): Json | undefined => {
  const entries = denseKeys(facts.kept).map((key): [string, Json] => [key, {}])
  const differing = new Map<string, { overrides: Json; names: string[] }>()
  for (const linear of facts.linears) {
    const overrides = overridesOf(linear, facts)
    const key = JSON.stringify(overrides)
    if (key === '{}') continue
    if (!differing.has(key)) differing.set(key, { overrides, names: [] })
    differing.get(key)!.names.push(linear.name)
  }
  for (const { overrides, names } of differing.values())
    entries.push(...differingKeys(names).map((key): [string, Json] => [key, overrides]))
  return entries.length > 0 ? Object.fromEntries(entries) : undefined
}

/** The part of a module's name after its block's number: `self_attn.q_proj` of `model.layers.3.self_attn.q_proj`. */
const inBlock = (name: string): string => name.replace(/^.*?\.\d+\./, '')

/**
 * `modules_in_block_to_quantize`, which transformers reads instead of `dynamic` (a module is quantized when its name ends with an
 * entry): names within a block where all blocks are alike, else full names. undefined when nothing is kept.
 */
const modulesToQuantize = ({ linears, kept }: AssembleFacts): string[][] | undefined => {
  if (kept.length === 0) return undefined
  const short = [...new Set(linears.map(({ name }) => inBlock(name)))]
  const alike = !kept.some(name => short.some(entry => name.endsWith(entry)))
  return [alike ? short : linears.map(({ name }) => name)]
}

/** Loaders refuse a damp_percent outside (0, 1); it says nothing of a method without damping. */
const dampOf = ({ method, damp }: AssembleFacts): Json =>
  method === 'gptq' && damp > 0 && damp < 1 ? { damp_percent: damp } : {}

const sequentialOf = ({ method }: AssembleFacts): Json => (method === 'gptq' ? { true_sequential: true } : {})

/** Keys that would be null are left out: old loaders do not expect null. */
export const gptqQuantizationConfig = (facts: AssembleFacts, version: 1 | 2): Json => {
  const checkpointFormat = version === 1 ? 'gptq' : 'gptq_v2'
  const dynamic = dynamicOf(facts)
  const modules = modulesToQuantize(facts)
  const staticGroups = facts.actOrder === 'static'
  return {
    quant_method: 'gptq',
    checkpoint_format: checkpointFormat,
    format: checkpointFormat,
    method: 'gptq',
    bits: facts.bits,
    group_size: groupSize(facts),
    desc_act: descAct(facts),
    sym: facts.symmetric,
    lm_head: facts.linears.some(({ name }) => name === 'lm_head'),
    pack_dtype: 'int32',
    ...sequentialOf(facts),
    ...dampOf(facts),
    static_groups: staticGroups,
    ...(descAct(facts) ? { act_group_aware: false } : {}),
    ...(modules ? { modules_in_block_to_quantize: modules } : {}),
    ...(dynamic ? { dynamic } : {}),
    meta: {
      quantizer: [`quantize-cli:${facts.version}`],
      ...dampOf(facts),
      static_groups: staticGroups,
      ...sequentialOf(facts),
    },
  }
}

const json = (value: Json): string => `${JSON.stringify(value, null, 2)}\n`

/**
 * Format.assemble. config.json keeps every key of the source in its order; `quantization_config` replaces the source's or comes last.
 * Without a source config (a lone weights file) only quantize_config.json is made.
 */
export const assembleGptq = (
  sourceConfig: Json | undefined,
  facts: AssembleFacts,
  version: 1 | 2,
): ReadonlyMap<string, string> => {
  const quantization = gptqQuantizationConfig(facts, version)
  const files = new Map([['quantize_config.json', json(quantization)]])
  if (sourceConfig) files.set('config.json', json({ ...sourceConfig, quantization_config: quantization }))
  return files
}
