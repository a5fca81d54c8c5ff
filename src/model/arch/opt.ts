/**
 * OPT (Zhang et al. 2022): LayerNorm before each half, learned positions, biases, a plain MLP.
 * Field meanings and defaults: transformers 5.17, models/opt.
 */
import type { ActivationKind, Block, Op } from '../../contracts.ts'
import { type FieldRule, fieldsOf, shown } from '../config.ts'
import type { Store } from '../store.ts'
import { type Architecture, activation, blocks, divides, embeddingAndHead, limits } from './architecture.ts'

interface Facts {
  readonly hidden: number
  readonly intermediate: number
  readonly heads: number
  readonly act: ActivationKind
  readonly bias: boolean
}

/** torch.nn.LayerNorm's, which no config field changes. */
const eps = 1e-5

/** Row of the position table for position 0. */
const positionOffset = 2

const layerNorm = (store: Store, name: string, x: string, y: string, hidden: number): Op => ({
  op: 'norm',
  kind: 'layer',
  x,
  y,
  weight: store.view(`${name}.weight`, [hidden]),
  bias: store.view(`${name}.bias`, [hidden]),
  eps,
})

const buildBlock = (store: Store, name: string, { hidden, intermediate, heads, act, bias }: Facts): Block => {
  const q = store.linear(`${name}.self_attn.q_proj`, hidden, hidden, bias)
  const k = store.linear(`${name}.self_attn.k_proj`, hidden, hidden, bias)
  const v = store.linear(`${name}.self_attn.v_proj`, hidden, hidden, bias)
  const o = store.linear(`${name}.self_attn.out_proj`, hidden, hidden, bias)
  const fc1 = store.linear(`${name}.fc1`, intermediate, hidden, bias)
  const fc2 = store.linear(`${name}.fc2`, hidden, intermediate, bias)
  const norm1 = `${name}.self_attn_layer_norm`
  const norm2 = `${name}.final_layer_norm`
  const headDim = hidden / heads
  const scale = 1 / Math.sqrt(headDim)
  // relu(c·x) = c·relu(x) for c > 0, and every scale that is folded back is positive; gelu and silu let nothing through
  const via = act === 'relu' ? 'elementwise' : 'none'
  return {
    name,
    input: 'x',
    output: 'y',
    ops: [
      layerNorm(store, norm1, 'x', 'xn', hidden),
      { op: 'linear', x: 'xn', y: 'q', linear: q.name },
      { op: 'linear', x: 'xn', y: 'k', linear: k.name },
      { op: 'linear', x: 'xn', y: 'v', linear: v.name },
      { op: 'attention', q: 'q', k: 'k', v: 'v', y: 'a', heads, kvHeads: heads, headDim, scale },
      { op: 'linear', x: 'a', y: 'o', linear: o.name },
      { op: 'add', a: 'o', b: 'x', y: 'h' },
      layerNorm(store, norm2, 'h', 'hn', hidden),
      { op: 'linear', x: 'hn', y: 'f', linear: fc1.name },
      { op: 'activation', kind: act, x: 'f', y: 'm' },
      { op: 'linear', x: 'm', y: 'd', linear: fc2.name },
      { op: 'add', a: 'd', b: 'h', y: 'y' },
    ],
    stages: [
      { tap: 'xn', width: hidden, linears: [q, k, v], from: { name: norm1, via: 'norm' }, share: 'scheme' },
      { tap: 'a', width: hidden, linears: [o], from: { name: v.name, via: 'heads' } },
      { tap: 'hn', width: hidden, linears: [fc1], from: { name: norm2, via: 'norm' } },
      { tap: 'm', width: intermediate, linears: [fc2], from: { name: fc1.name, via } },
    ],
  }
}

const only = (value: unknown): FieldRule => ({ only: [value], want: String(value) })

export const opt: Architecture = {
  name: 'opt',
  modelTypes: ['opt'],
  fields: config => ({
    ...fieldsOf(
      'implemented',
      `vocab_size hidden_size ffn_dim num_hidden_layers num_attention_heads max_position_embeddings activation_function
       enable_bias tie_word_embeddings`,
    ),
    do_layer_norm_before: only(true),
    _remove_final_layer_norm: only(false),
    layer_norm_elementwise_affine: only(true),
    word_embed_proj_dim: {
      only: value => value === config.value('hidden_size'),
      want: `hidden_size ${shown(config.value('hidden_size'))}`,
    },
  }),
  build(config, store) {
    const hidden = config.integer('hidden_size', limits.width)
    const heads = config.integer('num_attention_heads', limits.heads)
    divides(config, 'hidden_size', hidden, 'num_attention_heads', heads)
    const facts: Facts = {
      hidden,
      intermediate: config.integer('ffn_dim', limits.width),
      heads,
      act: activation(config, 'activation_function', 'opt', 'relu'),
      bias: config.boolean('enable_bias', true),
    }
    const vocabulary = config.integer('vocab_size', limits.vocabulary)
    const maxPositions = config.integer('max_position_embeddings', limits.positions, 2048)
    const prefix = store.prefix(['model.decoder.', 'decoder.'], 'final_layer_norm.weight')
    const tie = config.boolean('tie_word_embeddings', true)
    const table = store.view(`${prefix}embed_positions.weight`, [maxPositions + positionOffset, hidden])
    return {
      hidden,
      vocabulary,
      maxPositions,
      ...embeddingAndHead(store, tie, `${prefix}embed_tokens`, 'lm_head', vocabulary, hidden),
      positions: { table, offset: positionOffset },
      blocks: blocks(config.integer('num_hidden_layers', limits.blocks), index =>
        buildBlock(store, `${prefix}layers.${index}`, facts),
      ),
      final: { ops: [layerNorm(store, `${prefix}final_layer_norm`, 'x', 'y', hidden)], input: 'x', output: 'y' },
      notes: [],
    }
  },
}
