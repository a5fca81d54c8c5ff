/**
 * Causal grouped-query attention by ONNX Runtime's GroupQueryAttention, which skips the masked half of the scores and does not
 * repeat keys and values. It rotates heads whose width is a multiple of 16 itself and takes widths that are a multiple of 8: others
 * are rotated by RotaryEmbedding and padded with zeros, which change neither scores nor the values kept.
 */
import type { NodeProto } from 'onnx-buf'
import type { Op, Rope } from '../../contracts.ts'
import { type Attribute, type Constant, type GraphValue, microsoft, node } from './onnx.ts'
import { ropeTables } from './rope-tables.ts'
import type { Engine, Feeds } from './session.ts'

export type AttentionOp = Extract<Op, { readonly op: 'attention' }>

const paddedWidth = (headDim: number): number => Math.ceil(headDim / 8) * 8
const isPadded = ({ headDim }: AttentionOp): boolean => headDim % 8 !== 0
const rotatesInside = ({ headDim }: AttentionOp): boolean => headDim % 16 === 0

const shapeName = (name: string): string => `attention.${name}`
const int64 = (name: string, values: readonly number[]): Constant => ({
  name: shapeName(name),
  type: 'int64',
  shape: [values.length],
  data: BigInt64Array.from(values, BigInt),
})

/** Graph inputs beside q, k, v. */
export const attentionInputs = ({ rope }: AttentionOp): readonly GraphValue[] => [
  { name: 'lengths', shape: ['B'], type: 'int32' },
  { name: 'total', shape: [], type: 'int32' },
  ...(rope ? ['cos', 'sin'].map(name => ({ name, shape: ['S', rope.frequencies.length] })) : []),
]

export const attentionConstants = (op: AttentionOp, seqLen: number): readonly Constant[] => {
  const { heads, kvHeads, headDim } = op
  const padded = paddedWidth(headDim)
  const shapes = [
    int64('q', [-1, seqLen, heads * headDim]),
    int64('kv', [-1, seqLen, kvHeads * headDim]),
    int64('rows', [-1, heads * headDim]),
  ]
  if (op.rope && !rotatesInside(op)) shapes.push(int64('first', [0]))
  if (!isPadded(op)) return shapes
  return [
    ...shapes,
    int64('q.heads', [-1, seqLen, heads, headDim]),
    int64('kv.heads', [-1, seqLen, kvHeads, headDim]),
    int64('q.padded', [-1, seqLen, heads * padded]),
    int64('kv.padded', [-1, seqLen, kvHeads * padded]),
    int64('y.heads', [-1, seqLen, heads, padded]),
    int64('pads', [0, 0, 0, 0, 0, 0, 0, padded - headDim]),
    int64('start', [0]),
    int64('end', [headDim]),
    int64('axis', [3]),
  ]
}

interface Lowered {
  readonly nodes: readonly NodeProto[]
  /** Name of the value that the nodes end in. */
  readonly result: string
}

/** From rows [B·S, n] to what the kernel takes, [B, S, n], rotated and padded where it does not do so itself. */
const prepare = (op: AttentionOp, value: string, kind: 'q' | 'kv', rotate: boolean): Lowered => {
  const nodes: NodeProto[] = []
  const then = (opType: string, inputs: readonly string[], suffix: string, last: string, heads?: number): string => {
    const attributes: Record<string, Attribute> = heads === undefined ? {} : { num_heads: heads }
    nodes.push(
      node(opType, [last, ...inputs], [`${value}.${suffix}`], attributes, heads === undefined ? '' : microsoft),
    )
    return `${value}.${suffix}`
  }
  let last = then('Reshape', [shapeName(kind)], 'sequences', value)
  if (rotate && op.rope && !rotatesInside(op))
    last = then(
      'RotaryEmbedding',
      [shapeName('first'), 'cos', 'sin'],
      'rotated',
      last,
      kind === 'q' ? op.heads : op.kvHeads,
    )
  if (isPadded(op)) {
    last = then('Reshape', [shapeName(`${kind}.heads`)], 'heads', last)
    last = then('Pad', [shapeName('pads')], 'pad', last)
    last = then('Reshape', [shapeName(`${kind}.padded`)], 'padded', last)
  }
  return { nodes, result: last }
}

/** From the kernel's [B, S, n] to rows [B·S, n] without the padding. */
const finish = (op: AttentionOp, result: string): readonly NodeProto[] => {
  const { y } = op
  if (!isPadded(op)) return [node('Reshape', [result, shapeName('rows')], [y])]
  return [
    node('Reshape', [result, shapeName('y.heads')], [`${y}.heads`]),
    node('Slice', [`${y}.heads`, shapeName('start'), shapeName('end'), shapeName('axis')], [`${y}.sliced`]),
    node('Reshape', [`${y}.sliced`, shapeName('rows')], [y]),
  ]
}

/** Nodes from op.q, op.k and op.v in rows to op.y in rows. */
export const attentionNodes = (op: AttentionOp, seqLen: number): readonly NodeProto[] => {
  const { y, heads, kvHeads, scale, window } = op
  const inside = op.rope !== undefined && rotatesInside(op)
  const attributes: Record<string, Attribute> = {
    num_heads: heads,
    kv_num_heads: kvHeads,
    do_rotary: inside ? 1 : 0,
    scale: { float: scale },
    // a window that holds the whole sequence is none, and none is faster
    ...(window !== undefined && window < seqLen ? { local_window_size: window } : {}),
  }
  const q = prepare(op, op.q, 'q', true)
  const k = prepare(op, op.k, 'kv', true)
  const v = prepare(op, op.v, 'kv', false)
  const noCache = ['', '']
  const inputs = [q.result, k.result, v.result, ...noCache, 'lengths', 'total', ...(inside ? ['cos', 'sin'] : [])]
  const result = `${y}.sequences`
  return [
    ...q.nodes,
    ...k.nodes,
    ...v.nodes,
    node('GroupQueryAttention', inputs, [result], attributes, microsoft),
    ...finish(op, result),
  ]
}

/** Tables of a rope as graph inputs `cos` and `sin`, [seqLen, headDim / 2]. */
const ropeFeeds = (engine: Engine, rope: Rope, seqLen: number): Feeds => {
  const { cos, sin } = ropeTables(rope, seqLen)
  const shape = [seqLen, rope.frequencies.length]
  return { cos: engine.tensor(cos, shape), sin: engine.tensor(sin, shape) }
}

/** Feeds of `attentionInputs` that do not depend on the number of sequences. */
export const attentionFeeds = (engine: Engine, { rope }: AttentionOp, seqLen: number): Feeds => ({
  total: engine.tensor(Int32Array.of(seqLen), []),
  ...(rope ? ropeFeeds(engine, rope, seqLen) : {}),
})

/** The feed `lengths`: every sequence is full. */
export const lengthsFeed = (engine: Engine, sequences: number, seqLen: number): Feeds => ({
  lengths: engine.tensor(new Int32Array(sequences).fill(seqLen - 1), [sequences]),
})
