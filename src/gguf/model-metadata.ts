/** Metadata of a llama model from config.json (llama.cpp, conversion/llama.py and conversion/base.py). */
import { QuantizeError } from '../errors.ts'
import { limits } from '../model/arch/architecture.ts'
import { type Config, openConfig, shown } from '../model/config.ts'
import { ropeFactors } from './rope-factors.ts'
import { type GgufValue, single } from './values.ts'

const arch = 'llama'
const positive = { min: 1e-6, max: 1e9 }
const counts = { min: 1, max: 2 ** 31 - 1 }

export interface ModelMetadata {
  /** Keys `general.architecture` and `llama.*`. */
  readonly metadata: ReadonlyMap<string, GgufValue>
  /** Values of the tensor `rope_freqs.weight` F32 [head_dim / 2], where the model needs one. */
  readonly ropeFactors?: Float32Array
  /** For the report: what llama.cpp computes otherwise. */
  readonly notes: readonly string[]
}

interface Facts {
  readonly hidden: number
  readonly heads: number
  readonly kvHeads: number
  readonly width: number
  readonly theta: number
}

const refuse = (config: Config, field: string, want: string): never => {
  throw new QuantizeError(
    'unsupported',
    `${config.where}${field} ${shown(config.value(field))} cannot be said in a GGUF of the ${arch} architecture (only ${want})`,
  )
}

const checkFunction = (config: Config): readonly string[] => {
  const type = config.text('model_type')
  const isMistral = type === 'mistral'
  if (!isMistral && type !== 'llama') refuse(config, 'model_type', 'llama, mistral')
  if (!['silu', 'swish'].includes(config.text('hidden_act', 'silu'))) refuse(config, 'hidden_act', 'silu')
  if (config.number('partial_rotary_factor', { min: 0, max: 1 }, 1) !== 1) refuse(config, 'partial_rotary_factor', '1')
  if (!isMistral || config.isNull('sliding_window')) return []
  const window = config.integer('sliding_window', limits.positions, 4096)
  return [`${config.quoted('sliding_window')}: llama.cpp attends to all positions, also beyond the window of ${window}`]
}

const multipleOf = (config: Config, field: string, value: number, byField: string, by: number): void => {
  if (value % by !== 0)
    throw new QuantizeError('bad-input', `${config.where}${field} ${value} is not a multiple of ${byField} ${by}`)
}

const readFacts = (config: Config, rope: Config | undefined): Facts => {
  const hidden = config.integer('hidden_size', limits.width)
  const heads = config.integer('num_attention_heads', limits.heads)
  const grouped = config.value('model_type') === 'mistral' && !config.isNull('num_key_value_heads') ? 8 : heads
  const kvHeads = config.integer('num_key_value_heads', limits.heads, grouped)
  multipleOf(config, 'num_attention_heads', heads, 'num_key_value_heads', kvHeads)
  if (config.value('head_dim') === undefined) multipleOf(config, 'hidden_size', hidden, 'num_attention_heads', heads)
  const width = config.integer('head_dim', limits.heads, Math.max(1, Math.floor(hidden / heads)))
  multipleOf(config, 'head_dim', width, 'pairs of', 2)
  const range = { min: 1, max: 1e12 }
  const outer = config.number('rope_theta', range, 10_000)
  return { hidden, heads, kvHeads, width, theta: rope?.number('rope_theta', range, outer) ?? outer }
}

/** `rope_scaling` counts before `rope_parameters` unless it is empty, as in transformers 5. */
const ropeSection = (config: Config): Config | undefined => {
  const older = config.section('rope_scaling')
  return older && older.names.length > 0 ? older : config.section('rope_parameters')
}

const scaling = (config: Config, rope: Config | undefined, { theta, width }: Facts, positions: number) => {
  const type = rope?.text('rope_type', rope.text('type', 'default')) ?? 'default'
  if (!rope || type === 'default') return {}
  if (type === 'linear') {
    const factor = rope.number('factor', positive)
    return { keys: { type: single('string', 'linear'), factor: single('f32', factor) } }
  }
  if (type !== 'llama3') return refuse(rope, 'rope_type', 'default, linear, llama3')
  const context = rope.integer('original_max_position_embeddings', counts, positions)
  const low = rope.number('low_freq_factor', positive)
  const high = rope.number('high_freq_factor', positive)
  if (!(low < high)) throw new QuantizeError('bad-input', `${rope.where}high_freq_factor ${high} must be above ${low}`)
  const outer = config.integer('original_max_position_embeddings', counts, context)
  return { factors: ropeFactors(theta, width, { factor: rope.number('factor', positive), low, high, context: outer }) }
}

/**
 * @param raw parsed config.json of a llama or mistral model
 * @param file its name, for messages
 * @throws QuantizeError unsupported: another architecture or scaling; bad-input: missing or absurd fields
 */
export const metadataOf = (raw: unknown, file: string): ModelMetadata => {
  const config = openConfig(raw, file)
  const notes = checkFunction(config)
  const rope = ropeSection(config)
  const facts = readFacts(config, rope)
  const isMistral = config.value('model_type') === 'mistral'
  const positions = config.integer('max_position_embeddings', counts, isMistral ? 131_072 : 2048)
  const { keys, factors } = scaling(config, rope, facts, positions)
  const u32 = (value: number): GgufValue => single('u32', value)
  const f32 = (value: number): GgufValue => single('f32', value)
  const own: Record<string, GgufValue> = {
    block_count: u32(config.integer('num_hidden_layers', limits.blocks)),
    context_length: u32(positions),
    embedding_length: u32(facts.hidden),
    feed_forward_length: u32(config.integer('intermediate_size', limits.width)),
    'attention.head_count': u32(facts.heads),
    'attention.head_count_kv': u32(facts.kvHeads),
    'attention.key_length': u32(facts.width),
    'attention.value_length': u32(facts.width),
    'attention.layer_norm_rms_epsilon': f32(config.number('rms_norm_eps', limits.eps, 1e-6)),
    'rope.dimension_count': u32(facts.width),
    'rope.freq_base': f32(facts.theta),
    vocab_size: u32(config.integer('vocab_size', limits.vocabulary)),
    ...(keys ? { 'rope.scaling.type': keys.type, 'rope.scaling.factor': keys.factor } : {}),
  }
  const metadata = new Map<string, GgufValue>([['general.architecture', single('string', arch)]])
  for (const [key, value] of Object.entries(own)) metadata.set(`${arch}.${key}`, value)
  return { metadata, notes, ...(factors ? { ropeFactors: factors } : {}) }
}
