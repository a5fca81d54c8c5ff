/**
 * Llama 2 and 3, SmolLM2 (`llama`) and Mistral (`mistral`): RMS norm, rotary grouped-query attention, gated MLP.
 * Field meanings and defaults: transformers 5.17, models/llama and models/mistral.
 */
import type { ActivationKind, Block, Op, Rope } from '../../contracts.ts'
import { type Config, type FieldTable, fieldsOf } from '../config.ts'
import { readRope, ropeFields } from '../rope.ts'
import type { Store } from '../store.ts'
import { type Architecture, activation, blocks, divides, embeddingAndHead, limits } from './architecture.ts'

interface Facts {
  readonly hidden: number
  readonly intermediate: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly eps: number
  readonly act: ActivationKind
  readonly attentionBias: boolean
  readonly mlpBias: boolean
  readonly window?: number
}

const isMistral = (config: Config): boolean => config.value('model_type') === 'mistral'

/** Mistral without the field has a window of 4096, with null none; Llama has none (its table refuses one). */
const slidingWindow = (config: Config): number | undefined =>
  isMistral(config) && !config.isNull('sliding_window')
    ? config.integer('sliding_window', limits.positions, 4096)
    : undefined

/** Llama without the field, and both with null, have as many key/value heads as heads; Mistral without it has 8. */
const keyValueHeads = (config: Config, heads: number): number => {
  const otherwise = isMistral(config) && !config.isNull('num_key_value_heads') ? 8 : heads
  const kvHeads = config.integer('num_key_value_heads', limits.heads, otherwise)
  divides(config, 'num_attention_heads', heads, 'num_key_value_heads', kvHeads)
  return kvHeads
}

const headWidth = (config: Config, hidden: number, heads: number): number => {
  if (config.value('head_dim') === undefined) divides(config, 'hidden_size', hidden, 'num_attention_heads', heads)
  return config.integer('head_dim', limits.heads, Math.max(1, Math.floor(hidden / heads)))
}

const readFacts = (config: Config): Facts => {
  const hidden = config.integer('hidden_size', limits.width)
  const heads = config.integer('num_attention_heads', limits.heads)
  return {
    hidden,
    intermediate: config.integer('intermediate_size', limits.width),
    heads,
    kvHeads: keyValueHeads(config, heads),
    headDim: headWidth(config, hidden, heads),
    eps: config.number('rms_norm_eps', limits.eps, 1e-6),
    act: activation(config, 'hidden_act', 'llama', 'silu'),
    attentionBias: config.boolean('attention_bias', false),
    mlpBias: config.boolean('mlp_bias', false),
    window: slidingWindow(config),
  }
}

const layerTypes = (kind: string): FieldTable => ({
  layer_types: {
    only: value => Array.isArray(value) && value.every(entry => entry === kind),
    want: `"${kind}" for every layer`,
  },
})

const rmsNorm = (store: Store, name: string, x: string, y: string, { hidden, eps }: Facts): Op => ({
  op: 'norm',
  kind: 'rms',
  x,
  y,
  weight: store.view(`${name}.weight`, [hidden]),
  eps,
})

const buildBlock = (store: Store, name: string, facts: Facts, rope: Rope): Block => {
  const { hidden, intermediate, heads, kvHeads, headDim, act, attentionBias, mlpBias, window } = facts
  const attention = `${name}.self_attn`
  const q = store.linear(`${attention}.q_proj`, heads * headDim, hidden, attentionBias)
  const k = store.linear(`${attention}.k_proj`, kvHeads * headDim, hidden, attentionBias)
  const v = store.linear(`${attention}.v_proj`, kvHeads * headDim, hidden, attentionBias)
  const o = store.linear(`${attention}.o_proj`, hidden, heads * headDim, attentionBias)
  const gate = store.linear(`${name}.mlp.gate_proj`, intermediate, hidden, mlpBias)
  const up = store.linear(`${name}.mlp.up_proj`, intermediate, hidden, mlpBias)
  const down = store.linear(`${name}.mlp.down_proj`, hidden, intermediate, mlpBias)
  const norm1 = `${name}.input_layernorm`
  const norm2 = `${name}.post_attention_layernorm`
  const scale = 1 / Math.sqrt(headDim)
  return {
    name,
    input: 'x',
    output: 'y',
    ops: [
      rmsNorm(store, norm1, 'x', 'xn', facts),
      { op: 'linear', x: 'xn', y: 'q', linear: q.name },
      { op: 'linear', x: 'xn', y: 'k', linear: k.name },
      { op: 'linear', x: 'xn', y: 'v', linear: v.name },
      { op: 'attention', q: 'q', k: 'k', v: 'v', y: 'a', heads, kvHeads, headDim, scale, rope, window },
      { op: 'linear', x: 'a', y: 'o', linear: o.name },
      { op: 'add', a: 'o', b: 'x', y: 'h' },
      rmsNorm(store, norm2, 'h', 'hn', facts),
      { op: 'linear', x: 'hn', y: 'g', linear: gate.name },
      { op: 'linear', x: 'hn', y: 'u', linear: up.name },
      { op: 'activation', kind: act, x: 'g', y: 's' },
      { op: 'multiply', a: 's', b: 'u', y: 'm' },
      { op: 'linear', x: 'm', y: 'd', linear: down.name },
      { op: 'add', a: 'd', b: 'h', y: 'y' },
    ],
    stages: [
      { tap: 'xn', width: hidden, linears: [q, k, v], from: { name: norm1, via: 'norm' }, share: 'scheme' },
      { tap: 'a', width: heads * headDim, linears: [o], from: { name: v.name, via: 'heads' } },
      { tap: 'hn', width: hidden, linears: [gate, up], from: { name: norm2, via: 'norm' }, share: 'scheme' },
      { tap: 'm', width: intermediate, linears: [down], from: { name: up.name, via: 'elementwise' } },
    ],
  }
}

export const llama: Architecture = {
  name: 'llama',
  modelTypes: ['llama', 'mistral'],
  fields: config => ({
    ...fieldsOf(
      'implemented',
      `vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim hidden_act
       rms_norm_eps max_position_embeddings tie_word_embeddings`,
    ),
    ...ropeFields,
    ...(isMistral(config)
      ? {
          ...fieldsOf('implemented', 'sliding_window'),
          ...layerTypes(slidingWindow(config) === undefined ? 'full_attention' : 'sliding_attention'),
        }
      : { ...fieldsOf('implemented', 'attention_bias mlp_bias'), ...layerTypes('full_attention') }),
  }),
  build(config, store) {
    const facts = readFacts(config)
    const vocabulary = config.integer('vocab_size', limits.vocabulary)
    const maxPositions = config.integer('max_position_embeddings', limits.positions, isMistral(config) ? 131_072 : 2048)
    const { rope, notes } = readRope(config, 'llama', facts.headDim, maxPositions)
    const prefix = store.prefix(['model.', ''], 'norm.weight')
    const tie = config.boolean('tie_word_embeddings', false)
    return {
      hidden: facts.hidden,
      vocabulary,
      maxPositions,
      ...embeddingAndHead(store, tie, `${prefix}embed_tokens`, 'lm_head', vocabulary, facts.hidden),
      blocks: blocks(config.integer('num_hidden_layers', limits.blocks), index =>
        buildBlock(store, `${prefix}layers.${index}`, facts, rope),
      ),
      final: { ops: [rmsNorm(store, `${prefix}norm`, 'x', 'y', facts)], input: 'x', output: 'y' },
      notes,
    }
  },
}
