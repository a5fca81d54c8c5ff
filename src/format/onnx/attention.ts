/**
 * Causal attention with a cache, by GroupQueryAttention as in the graphs of onnxruntime-genai. The kernel takes positions from the length of
 * the attention mask: one sequence, or several of one length without padding.
 */
import type { Op, Rope } from '../../contracts.ts'
import { type Attribute, elementTypes, microsoft, node } from '../../engine/ort/onnx.ts'
import { QuantizeError } from '../../errors.ts'
import type { Builder } from './builder.ts'

export type AttentionOp = Extract<Op, { readonly op: 'attention' }>

/** Names of the values that all attentions share; `/` keeps names of values apart from those of tensors. */
export const positionNames = {
  lengths: '/attention/lengths',
  total: '/attention/total',
  first: '/attention/first',
  added: '/attention/added',
} as const

/** Shape of input_ids, [2]. */
export const inputShape = '/input_ids/shape'

/** From attention_mask [B, total] and input_ids [B, S]: the last position of each sequence, the number of positions, the first one added. */
export const positionNodes = (b: Builder): void => {
  b.apply('Shape', ['input_ids'], inputShape)
  const maskShape = b.apply('Shape', ['attention_mask'], '/attention_mask/shape')
  const total = b.apply('Gather', [maskShape, b.whole([1])], '/attention_mask/length')
  b.apply('Gather', [inputShape, b.whole([1])], positionNames.added)
  b.apply('Sub', [total, positionNames.added], positionNames.first)
  const scalar = b.apply('Squeeze', [total, b.whole([0])], '/attention/total/int64')
  b.apply('Cast', [scalar], positionNames.total, { to: elementTypes.int32 })
  const sum = b.apply('ReduceSum', ['attention_mask', b.whole([1])], '/attention_mask/sum', { keepdims: 0 })
  const last = b.apply('Sub', [sum, b.whole([1])], '/attention/lengths/int64')
  b.apply('Cast', [last], positionNames.lengths, { to: elementTypes.int32 })
}

/**
 * Tables of a rope, [maxPositions, headDim / 2], as nodes over constants: ONNX Runtime computes them once, when it loads the graph. The angle
 * is rounded to float32, as transformers computes it.
 */
const ropeTables = (b: Builder, { frequencies, attentionFactor }: Rope, maxPositions: number, name: string) => {
  const range = b.apply('Range', [b.whole(0), b.whole(maxPositions), b.whole(1)], `${name}/positions`)
  const column = b.apply('Unsqueeze', [range, b.whole([1])], `${name}/column`)
  const float = b.apply('Cast', [column], `${name}/float`, { to: elementTypes.float32 })
  const shape = [1, frequencies.length]
  const data = Float32Array.from(frequencies)
  const angles = b.apply(
    'Mul',
    [float, b.constant({ name: `${name}/frequencies`, type: 'float32', shape, data })],
    `${name}/angles`,
  )
  const factor = (): string =>
    b.constant({ name: `${name}/factor`, type: 'float32', shape: [], data: Float32Array.of(attentionFactor) })
  const table = (kind: 'cos' | 'sin'): string => {
    const plain = b.apply(kind === 'cos' ? 'Cos' : 'Sin', [angles], `${name}/${kind}`)
    const scaled = attentionFactor === 1 ? plain : b.apply('Mul', [plain, factor()], `${name}/${kind}/scaled`)
    return b.cast(scaled, 'float32')
  }
  return [table('cos'), table('sin')] as const
}

export interface Ropes {
  /** Names of the cos and sin tables. */
  tablesOf(rope: Rope): readonly [string, string]
}

/** Tables for each distinct rope of a model. */
export const createRopes = (b: Builder, maxPositions: number): Ropes => {
  const known = new Map<string, readonly [string, string]>()
  return {
    tablesOf(rope) {
      const key = JSON.stringify(rope)
      const tables = known.get(key) ?? ropeTables(b, rope, maxPositions, `/rope.${known.size}`)
      known.set(key, tables)
      return tables
    },
  }
}

/** @throws QuantizeError unsupported for a width that the kernel does not take */
export const checkHeads = ({ headDim }: AttentionOp, block: string): void => {
  if (headDim % 8 !== 0)
    throw new QuantizeError(
      'unsupported',
      `${block}: its heads are ${headDim} wide; format onnx holds widths that are a multiple of 8, which ONNX Runtime's GroupQueryAttention wants`,
    )
}

/** Nodes from q, k, v [B, S, heads · headDim] to y, and from the cache of `layer` to the longer one. */
export const attentionNodes = (b: Builder, op: AttentionOp, layer: number, ropes: Ropes): void => {
  const { q, k, v, y, heads, kvHeads, headDim, scale, rope, window } = op
  const tables = rope ? ropes.tablesOf(rope) : []
  const inside = rope !== undefined && headDim % 16 === 0 // narrower heads the kernel does not rotate itself
  const rotated = (x: string, count: number): string =>
    rope && !inside
      ? b.apply('RotaryEmbedding', [x, positionNames.first, ...tables], `${x}/rotated`, { num_heads: count }, microsoft)
      : x
  const attributes: Record<string, Attribute> = {
    num_heads: heads,
    kv_num_heads: kvHeads,
    do_rotary: inside ? 1 : 0,
    scale: { float: scale },
    ...(window === undefined ? {} : { local_window_size: window }),
  }
  const inputs = [
    rotated(q, heads),
    rotated(k, kvHeads),
    v,
    `past_key_values.${layer}.key`,
    `past_key_values.${layer}.value`,
    positionNames.lengths,
    positionNames.total,
    ...(inside ? tables : []),
  ]
  const outputs = [y, `present.${layer}.key`, `present.${layer}.value`]
  b.add(node('GroupQueryAttention', inputs, outputs, attributes, microsoft))
}
