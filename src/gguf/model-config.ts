/** config.json of a llama model from the metadata of a GGUF (llama.cpp, src/llama-model.cpp and src/models/llama.cpp). */
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'
import { type Keys, openMetadata } from './metadata.ts'
import { ropeFactorsName } from './names.ts'
import { llama3ScalingOf } from './rope-factors.ts'
import type { GgufMetadata } from './values.ts'

const arch = 'llama'

type Json = Readonly<Record<string, unknown>>

/** The fields of config.json. */
export interface GgufConfig extends Json {
  readonly num_attention_heads: number
  readonly num_key_value_heads: number
}

export interface GgufModel {
  readonly file: string
  readonly metadata: GgufMetadata
  /** By name of llama.cpp. */
  readonly tensors: ReadonlyMap<string, { readonly shape: readonly number[] }>
  /** The values of `rope_freqs.weight`, where there is one. */
  readonly ropeFactors?: Float32Array
}

/** The shortest decimal that rounds to the same float32: 1e-5 was stored as 0.00000999999974…. */
const shortest = (value: number): number => {
  for (let figures = 1; figures < 9; figures++) {
    const short = Number(value.toPrecision(figures))
    if (Math.fround(short) === value) return short
  }
  return value
}

/** A u32 that some models give as an array, one a layer: here all layers must agree. */
const sharedCount = (keys: Keys, metadata: GgufMetadata, key: string, otherwise?: number): number => {
  const found = metadata.get(key)
  if (found?.type !== 'array') return keys.number(key, 'u32', otherwise)
  const values = found.of === 'u32' || found.of === 'i32' ? found.values() : []
  const [first] = values
  if (typeof first !== 'number' || values.some(value => value !== first))
    return keys.fail(
      key,
      'differs from layer to layer, which the llama architecture here does not compute',
      'unsupported',
    )
  return first
}

const headWidth = (keys: Keys, hidden: number, heads: number): number => {
  const width = keys.number(`${arch}.attention.key_length`, 'u32', Math.floor(hidden / heads))
  for (const key of [`${arch}.attention.value_length`, `${arch}.rope.dimension_count`]) {
    const value = keys.number(key, 'u32', width)
    if (value !== width) keys.fail(key, `is ${value}, where llama.cpp wants the width of a head, ${width}`)
  }
  return width
}

/** `rope_scaling` of config.json; undefined: none. */
const ropeScaling = (keys: Keys, theta: number, width: number, factors: Float32Array | undefined): Json | undefined => {
  const prefix = `${arch}.rope.scaling`
  const factor = shortest(keys.number(`${prefix}.factor`, 'f32', keys.number(`${arch}.rope.scale_linear`, 'f32', 0)))
  const stretched = factor !== 0 && factor !== 1
  const type = keys.text(`${prefix}.type`, 'linear')
  if (type !== 'linear' && type !== 'none' && type !== 'yarn')
    keys.fail(`${prefix}.type`, `"${printable(type)}" is not read; none, linear and yarn are`, 'unsupported')
  if (factors === undefined) {
    if (!stretched || type === 'none') return undefined
    if (type === 'linear') return { rope_type: 'linear', factor }
    return {
      rope_type: 'yarn',
      factor,
      original_max_position_embeddings: keys.number(`${prefix}.original_context_length`, 'u32'),
    }
  }
  if (stretched && type !== 'none')
    keys.fail(`${prefix}.type`, `comes with ${ropeFactorsName}; only one of them is read`, 'unsupported')
  return llama3(keys, theta, width, factors)
}

const llama3 = (keys: Keys, theta: number, width: number, factors: Float32Array): Json | undefined => {
  const where = `${printable(keys.file)}: tensor "${ropeFactorsName}"`
  if (factors.length !== width / 2 || !factors.every(value => value > 0 && Number.isFinite(value)))
    throw new QuantizeError('bad-input', `${where} must hold ${width / 2} factors above 0`)
  if (factors.every(value => value === 1)) return undefined
  const scaling = llama3ScalingOf(theta, width, factors)
  if (!scaling)
    throw new QuantizeError('unsupported', `${where} holds no scaling of Llama 3, the only one that is read`)
  return {
    rope_type: 'llama3',
    factor: scaling.factor,
    low_freq_factor: scaling.low,
    high_freq_factor: scaling.high,
    original_max_position_embeddings: scaling.context,
  }
}

/** All blocks have biases for all of these, or none for any: what config.json can say. */
const biased = ({ tensors, file }: GgufModel, blocks: number, names: readonly string[]): boolean => {
  const found = [...tensors.keys()].filter(name =>
    names.some(part => /^blk\.\d+\./.test(name) && name.endsWith(`.${part}.bias`)),
  )
  if (found.length > 0 && found.length !== blocks * names.length)
    throw new QuantizeError(
      'unsupported',
      `${printable(file)}: has ${found.length} biases of ${names.join(', ')} in ${blocks} blocks; config.json of llama can say none or all`,
    )
  return found.length > 0
}

/** Rows of the embedding; as many tokens there must be. */
const vocabularySize = (keys: Keys, { tensors, file }: GgufModel): number => {
  const rows = tensors.get('token_embd.weight')?.shape.at(0)
  if (rows === undefined)
    throw new QuantizeError('bad-input', `${printable(file)}: tensor "token_embd.weight" is missing`)
  const tokens = keys.array('tokenizer.ggml.tokens', 'string')
  if (tokens && tokens.length !== rows)
    keys.fail('tokenizer.ggml.tokens', `has ${tokens.length} tokens, but token_embd.weight has ${rows} rows`)
  return rows
}

const refuseOthers = (keys: Keys): void => {
  const found = keys.text('general.architecture')
  if (found !== arch)
    keys.fail('general.architecture', `"${printable(found)}" has no architecture here; ${arch} has`, 'unsupported')
  if (keys.number(`${arch}.expert_count`, 'u32', 0) > 0)
    keys.fail(`${arch}.expert_count`, 'says a mixture of experts, which is not read yet', 'unsupported')
  if (!keys.boolean(`${arch}.attention.causal`, true))
    keys.fail(`${arch}.attention.causal`, 'is false: no language model', 'unsupported')
}

const tokenIds = (keys: Keys): Json => {
  const named = [
    ['bos_token_id', 'bos_token_id'],
    ['eos_token_id', 'eos_token_id'],
    ['pad_token_id', 'padding_token_id'],
  ] as const
  return Object.fromEntries(
    named.flatMap(([field, key]) => {
      const full = `tokenizer.ggml.${key}`
      return keys.has(full) ? [[field, keys.number(full, 'u32')]] : []
    }),
  )
}

/**
 * What transformers' config.json would be, as model/graph.ts reads it with the tensors under transformers' names (names.ts). The head is
 * tied when there is no `output.weight`.
 * @throws QuantizeError unsupported: another architecture, a mixture of experts, a scaling or a mix of biases that config.json cannot say;
 *   bad-input: keys that are missing, of the wrong type, or contradict each other
 */
export const configOf = (model: GgufModel): GgufConfig => {
  const keys = openMetadata(model.metadata, model.file)
  refuseOthers(keys)
  const hidden = keys.number(`${arch}.embedding_length`, 'u32')
  const heads = sharedCount(keys, model.metadata, `${arch}.attention.head_count`)
  if (heads === 0) keys.fail(`${arch}.attention.head_count`, 'is 0')
  const width = headWidth(keys, hidden, heads)
  const blocks = keys.number(`${arch}.block_count`, 'u32')
  const theta = shortest(keys.number(`${arch}.rope.freq_base`, 'f32', 10_000))
  const scaling = ropeScaling(keys, theta, width, model.ropeFactors)
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    vocab_size: vocabularySize(keys, model),
    hidden_size: hidden,
    intermediate_size: sharedCount(keys, model.metadata, `${arch}.feed_forward_length`),
    num_hidden_layers: blocks,
    num_attention_heads: heads,
    num_key_value_heads: sharedCount(keys, model.metadata, `${arch}.attention.head_count_kv`, heads),
    head_dim: width,
    hidden_act: 'silu',
    rms_norm_eps: shortest(keys.number(`${arch}.attention.layer_norm_rms_epsilon`, 'f32')),
    max_position_embeddings: keys.number(`${arch}.context_length`, 'u32'),
    attention_bias: biased(model, blocks, ['attn_q', 'attn_k', 'attn_v', 'attn_output']),
    mlp_bias: biased(model, blocks, ['ffn_gate', 'ffn_up', 'ffn_down']),
    tie_word_embeddings: !model.tensors.has('output.weight'),
    rope_theta: theta,
    ...(scaling ? { rope_scaling: scaling } : {}),
    ...tokenIds(keys),
  }
}
