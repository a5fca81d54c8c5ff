import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import type { TensorInfo } from '../../src/contracts.ts'
import { configOf, type GgufModel } from '../../src/gguf/model-config.ts'
import { metadataOf } from '../../src/gguf/model-metadata.ts'
import { toGgufName } from '../../src/gguf/names.ts'
import { llama3ScalingOf, ropeFactors } from '../../src/gguf/rope-factors.ts'
import { arrayOf, type GgufValue, single } from '../../src/gguf/values.ts'
import { buildModel } from '../../src/model/graph.ts'
import { refusal } from '../checkpoint/support.ts'

type Json = Record<string, unknown>

const fixture: Json = JSON.parse(
  readFileSync(new URL('../../fixtures/tiny-llama/config.json', import.meta.url), 'utf8'),
)
const { rope_parameters: _, ...plain } = fixture
const base: Json = { ...plain, rope_theta: 10_000 }

/** Names and shapes of transformers. */
const tensorsOf = (config: Json): Map<string, TensorInfo> => {
  const {
    hidden_size: hidden,
    intermediate_size: inner,
    num_hidden_layers: count,
    vocab_size: vocabulary,
  } = config as {
    [key: string]: number
  }
  const heads = Number(config.num_attention_heads)
  const width = Number(config.head_dim ?? hidden / heads)
  const [q, kv] = [heads * width, Number(config.num_key_value_heads) * width]
  const shapes: [string, number[]][] = [
    ['model.embed_tokens.weight', [vocabulary, hidden]],
    ['model.norm.weight', [hidden]],
  ]
  if (!config.tie_word_embeddings) shapes.push(['lm_head.weight', [vocabulary, hidden]])
  for (let i = 0; i < count; i++)
    for (const [name, shape, bias] of [
      ['input_layernorm', [hidden], false],
      ['post_attention_layernorm', [hidden], false],
      ['self_attn.q_proj', [q, hidden], config.attention_bias],
      ['self_attn.k_proj', [kv, hidden], config.attention_bias],
      ['self_attn.v_proj', [kv, hidden], config.attention_bias],
      ['self_attn.o_proj', [hidden, q], config.attention_bias],
      ['mlp.gate_proj', [inner, hidden], config.mlp_bias],
      ['mlp.up_proj', [inner, hidden], config.mlp_bias],
      ['mlp.down_proj', [hidden, inner], config.mlp_bias],
    ] as const) {
      shapes.push([`model.layers.${i}.${name}.weight`, [...shape]])
      if (bias) shapes.push([`model.layers.${i}.${name}.bias`, [shape[0]]])
    }
  return new Map(shapes.map(([name, shape]) => [name, { name, dtype: 'F32', shape, bytes: 0 }]))
}

const toGguf = (config: Json): GgufModel => {
  const { metadata, ropeFactors: factors } = metadataOf(config, 'config.json')
  const tensors = new Map([...tensorsOf(config)].map(([name, info]) => [toGgufName(name)!, info]))
  return { file: 'm.gguf', metadata, tensors, ...(factors ? { ropeFactors: factors } : {}) }
}

const llama3 = { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4 }

const variants: Record<string, Json> = {
  plain: {},
  'an untied head': { tie_word_embeddings: false },
  'wider heads': { head_dim: 64 },
  'biases of attention': { attention_bias: true },
  'biases of the MLP': { mlp_bias: true },
  'another theta': { rope_theta: 500_000 },
  'linear scaling': { rope_scaling: { rope_type: 'linear', factor: 2.5 } },
  'scaling of Llama 3': { rope_scaling: { ...llama3, original_max_position_embeddings: 8192 }, rope_theta: 500_000 },
  'a shorter context': { rope_scaling: { ...llama3, original_max_position_embeddings: 64 }, head_dim: 64 },
  'a wider blend': {
    rope_scaling: { ...llama3, factor: 32, high_freq_factor: 16, original_max_position_embeddings: 1000 },
    head_dim: 128,
  },
  'another epsilon': { rms_norm_eps: 1e-6 },
}

const graphOf = (config: Json) => {
  const { notes: _notes, ...model } = buildModel(config, tensorsOf(config), 'config.json')
  return model
}

describe('config.json to metadata and back', () => {
  it.each(Object.keys(variants))('%s gives the same model', name => {
    const config = { ...base, ...variants[name] }
    const back = configOf(toGguf(config))
    const expected = graphOf(config)
    const found = buildModel(back, tensorsOf(config), 'm.gguf')
    expect(found.notes).toEqual([])
    expect({ ...found, notes: undefined }).toEqual({ ...expected, notes: undefined })
    const { rope_scaling: scaling, ...others } = config
    expect(back).toMatchObject({ rms_norm_eps: others.rms_norm_eps, rope_theta: others.rope_theta })
    expect(back.rope_scaling).toEqual(scaling)
  })

  it('reads the newer rope_parameters, and notes the window of Mistral', () => {
    const newer = { ...plain, rope_parameters: { rope_type: 'default', rope_theta: 1e6 } }
    expect(metadataOf(newer, 'config.json').metadata.get('llama.rope.freq_base')).toEqual(single('f32', 1e6))
    const { notes, metadata } = metadataOf({ ...base, model_type: 'mistral', sliding_window: 64 }, 'config.json')
    expect(notes).toEqual([expect.stringMatching(/sliding_window.*beyond the window of 64/)])
    expect(metadata.get('general.architecture')).toEqual(single('string', 'llama'))
  })

  it('has the types that llama.cpp asks for', () => {
    const types = [...metadataOf(base, 'config.json').metadata].map(([key, { type }]) => [key, type])
    const floats = types.filter(([, type]) => type === 'f32').map(([key]) => key)
    expect(floats).toEqual(['llama.attention.layer_norm_rms_epsilon', 'llama.rope.freq_base'])
    expect(types.filter(([, type]) => type !== 'f32' && type !== 'u32')).toEqual([['general.architecture', 'string']])
  })

  it.each<[string, Json, RegExp, 'unsupported'?]>([
    ['another model', { model_type: 'qwen2' }, /model_type "qwen2" cannot be said.*only llama, mistral/, 'unsupported'],
    ['another activation', { hidden_act: 'gelu' }, /hidden_act "gelu"/, 'unsupported'],
    [
      'YaRN',
      { rope_scaling: { rope_type: 'yarn', factor: 2 } },
      /rope_type "yarn".*only default, linear, llama3/,
      'unsupported',
    ],
    ['part of a head', { partial_rotary_factor: 0.5 }, /partial_rotary_factor 0\.5/, 'unsupported'],
    ['an odd head', { head_dim: 31 }, /head_dim 31 is not a multiple of pairs of 2/],
    [
      'heads that do not divide',
      { num_key_value_heads: 3 },
      /num_attention_heads 4 is not a multiple of num_key_value_heads 3/,
    ],
    ['no layers', { num_hidden_layers: 0 }, /num_hidden_layers must be an integer from 1/],
    ['an infinite theta', { rope_theta: Infinity }, /rope_theta must be a number/],
  ])('refuses %s', (_name, change, message, code = 'bad-input' as never) => {
    expect(refusal(() => metadataOf({ ...base, ...change }, 'config.json'), code)).toMatch(message)
  })
})

describe('metadata to config.json', () => {
  const model = toGguf(base)
  const withKeys = (changes: Record<string, GgufValue | undefined>): GgufModel => {
    const metadata = new Map(model.metadata)
    for (const [key, value] of Object.entries(changes)) {
      if (value) metadata.set(key, value)
      else metadata.delete(key)
    }
    return { ...model, metadata }
  }
  const u32 = (value: number): GgufValue => single('u32', value)

  it('fills in what llama.cpp fills in', () => {
    const missing = [
      'attention.head_count_kv',
      'attention.key_length',
      'attention.value_length',
      'rope.dimension_count',
      'rope.freq_base',
    ]
    const config = configOf(withKeys(Object.fromEntries(missing.map(key => [`llama.${key}`, undefined]))))
    expect(config).toMatchObject({ num_key_value_heads: 4, head_dim: 32, rope_theta: 10_000 })
  })

  it('takes a count for each layer where they agree', () => {
    const same = arrayOf('u32', [4, 4, 4, 4])
    expect(configOf(withKeys({ 'llama.attention.head_count': same }))).toMatchObject({ num_attention_heads: 4 })
    const other = withKeys({ 'llama.feed_forward_length': arrayOf('u32', [384, 256, 384, 384]) })
    expect(refusal(() => configOf(other), 'unsupported')).toMatch(/feed_forward_length" differs from layer to layer/)
  })

  it('takes a linear factor without its type, as llama.cpp does, and none when told so', () => {
    const factor = single('f32', 4)
    expect(configOf(withKeys({ 'llama.rope.scaling.factor': factor })).rope_scaling).toEqual({
      rope_type: 'linear',
      factor: 4,
    })
    const none = { 'llama.rope.scaling.factor': factor, 'llama.rope.scaling.type': single('string', 'none') }
    expect(configOf(withKeys(none)).rope_scaling).toBeUndefined()
  })

  it('gives the ids of tokens', () => {
    const config = configOf(
      withKeys({ 'tokenizer.ggml.bos_token_id': u32(7), 'tokenizer.ggml.padding_token_id': u32(9) }),
    )
    expect(config).toMatchObject({ bos_token_id: 7, pad_token_id: 9 })
    expect(config).not.toHaveProperty('eos_token_id')
  })

  it.each<[string, Record<string, GgufValue | undefined>, RegExp, 'unsupported'?]>([
    [
      'another architecture',
      { 'general.architecture': single('string', 'qwen2') },
      /"qwen2" has no architecture here/,
      'unsupported',
    ],
    ['no architecture', { 'general.architecture': undefined }, /key "general\.architecture" is missing \(string\)/],
    ['a mixture of experts', { 'llama.expert_count': u32(8) }, /mixture of experts/, 'unsupported'],
    ['no causal mask', { 'llama.attention.causal': single('bool', false) }, /causal" is false/, 'unsupported'],
    [
      'i32 for u32',
      { 'llama.block_count': single('i32', 4) },
      /block_count" is of type i32; llama\.cpp reads u32 there/,
    ],
    ['a missing context', { 'llama.context_length': undefined }, /context_length" is missing \(u32\)/],
    ['a missing epsilon', { 'llama.attention.layer_norm_rms_epsilon': undefined }, /epsilon" is missing \(f32\)/],
    ['no heads', { 'llama.attention.head_count': u32(0) }, /head_count" is 0/],
    [
      'values of another width',
      { 'llama.attention.value_length': u32(16) },
      /value_length" is 16.*width of a head, 32/,
    ],
    ['rotation of a part', { 'llama.rope.dimension_count': u32(16) }, /dimension_count" is 16.*width of a head, 32/],
    ['NaN', { 'llama.rope.freq_base': single('f32', Number.NaN) }, /freq_base" is NaN/],
    [
      'another scaling',
      { 'llama.rope.scaling.type': single('string', 'longrope') },
      /"longrope" is not read/,
      'unsupported',
    ],
    [
      'other tokens',
      { 'tokenizer.ggml.tokens': arrayOf('string', ['a']) },
      /has 1 tokens, but token_embd\.weight has 1024 rows/,
    ],
    [
      'tokens of another type',
      { 'tokenizer.ggml.tokens': arrayOf('u8', [1]) },
      /is an array of u8; llama\.cpp reads an array of string/,
    ],
  ])('refuses %s', (_name, changes, message, code = 'bad-input' as never) => {
    const line = refusal(() => configOf(withKeys(changes)), code)
    expect(line).toMatch(message)
    expect(line).toMatch(/^m\.gguf: key "/)
  })

  it('refuses biases of some blocks, and a missing embedding', () => {
    const tensors = new Map([...model.tensors, ['blk.2.attn_q.bias', { shape: [128] }]])
    expect(refusal(() => configOf({ ...model, tensors }), 'unsupported')).toMatch(/has 1 biases of attn_q/)
    expect(refusal(() => configOf({ ...model, tensors: new Map() }))).toMatch(/token_embd\.weight" is missing/)
  })

  it.each<[string, number[], RegExp, 'unsupported'?]>([
    ['too few', [1], /must hold 16 factors above 0/],
    ['zeros', Array(16).fill(0), /must hold 16 factors above 0/],
    ['NaN', Array(16).fill(Number.NaN), /must hold 16 factors above 0/],
    ['no scaling of Llama 3', Array.from({ length: 16 }, (_, i) => 16 - i), /no scaling of Llama 3/, 'unsupported'],
  ])('refuses rope_freqs: %s', (_name, factors, message, code = 'bad-input' as never) => {
    expect(refusal(() => configOf({ ...model, ropeFactors: Float32Array.from(factors) }), code)).toMatch(message)
  })
})

describe('factors of Llama 3.1', () => {
  // conversion/llama.py of llama.cpp, for theta 500000, head_dim 128, factor 8, 1, 4, 8192
  const factors = ropeFactors(500_000, 128, { factor: 8, low: 1, high: 4, context: 8192 })

  it('keep short waves, stretch long ones, and blend between', () => {
    expect(factors.slice(0, 29)).toEqual(new Float32Array(29).fill(1))
    expect(factors.slice(35)).toEqual(new Float32Array(29).fill(8))
    const blended = [1.20748, 1.55341, 2.02631, 2.69453, 3.68425, 5.25733]
    expect([...factors.slice(29, 35)].every((value, i) => Math.abs(value - blended[i]) < 1e-4)).toBe(true)
  })

  it('are recognised', () => {
    expect(llama3ScalingOf(500_000, 128, factors)).toEqual({ factor: 8, low: 1, high: 4, context: 8192 })
  })
})
