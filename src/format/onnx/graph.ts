/**
 * A model as an ONNX decoder with a cache, named as in the exports of optimum and onnxruntime-genai: input_ids [B, S], attention_mask
 * [B, past + S], past_key_values.N.key/value [B, kvHeads, past, headDim] → logits [B, S, vocabulary] (float32), present.N.key/value.
 * Values inside are [B, S, features], called as in the model's ops, with the block's name before them.
 */
import type { LinearScheme, Model, Op, TensorInfo } from '../../contracts.ts'
import type { ExternalConstant, Graph, GraphValue } from '../../engine/ort/onnx.ts'
import { activationNode, type Norm, normNode, pairNorms, skipNormNode } from '../../engine/ort/op-nodes.ts'
import { linearsOf } from '../../engine/ort/segments.ts'
import { QuantizeError } from '../../errors.ts'
import { printable } from '../../io/printable.ts'
import { moduleOf } from '../stored.ts'
import { type AttentionOp, attentionNodes, checkHeads, createRopes, positionNames, positionNodes } from './attention.ts'
import { type Builder, createBuilder, elementType } from './builder.ts'
import { embeddingNodes, linearNodes } from './linears.ts'

/** Where a tensor lies. */
export interface PlacedTensor extends TensorInfo {
  /** Basename. */
  readonly file: string
  readonly offset: number
}

/** An op with other names of values. */
const renamed = (op: Op, name: (value: string) => string): Op => {
  const y = name(op.y)
  if (op.op === 'attention') return { ...op, q: name(op.q), k: name(op.k), v: name(op.v), y }
  return 'a' in op ? { ...op, a: name(op.a), b: name(op.b), y } : { ...op, x: name(op.x), y }
}

/** All ops of a model in one list, from the value `embedded` to `hidden`. */
const allOps = ({ blocks, final }: Model, embedded: string, hidden: string): readonly Op[] => {
  const parts = [...blocks, { ...final, name: 'final' }]
  let input = embedded
  return parts.flatMap(part => {
    const output = part.name === 'final' ? hidden : `/${part.name}/${part.output}`
    const from = input
    input = output
    return part.ops.map(op =>
      renamed(op, value => (value === part.input ? from : value === part.output ? output : `/${part.name}/${value}`)),
    )
  })
}

/** Embeddings of the tokens, with learned positions where the model has them. */
const embedded = (b: Builder, model: Model): string => {
  const { positions } = model
  const tokens = embeddingNodes(b, model, 'input_ids', '/embedding/tokens')
  if (!positions) return tokens
  const start = b.apply('Add', [positionNames.first, b.whole([positions.offset])], '/positions/start')
  const first = b.apply('Squeeze', [start, b.whole([0])], '/positions/first')
  const count = b.apply('Squeeze', [positionNames.added, b.whole([0])], '/positions/count')
  const end = b.apply('Add', [first, count], '/positions/end')
  const rows = b.apply('Range', [first, end, b.whole(1)], '/positions')
  return b.apply(
    'Add',
    [tokens, b.apply('Gather', [b.view(positions.table), rows], '/embedding/positions')],
    '/embedding',
  )
}

const normInputs = (b: Builder, { weight, bias }: Norm): string[] => [b.view(weight), ...(bias ? [b.view(bias)] : [])]

const opNodes = (b: Builder, model: Model, start: string): string => {
  const linears = new Map(model.blocks.flatMap(block => [...linearsOf(block)]))
  const ropes = createRopes(b, model.maxPositions)
  let layer = 0
  for (const { op, norm } of pairNorms(allOps(model, start, '/hidden'))) {
    if (op.op === 'linear') linearNodes(b, op.x, op.y, linears.get(op.linear)!)
    else if (op.op === 'attention') attentionNodes(b, op, layer++, ropes)
    else if (op.op === 'activation') b.add(activationNode(op.kind, op.x, op.y))
    else if (op.op === 'multiply') b.apply('Mul', [op.a, op.b], op.y)
    else if (op.op === 'norm') b.add(normNode(op, normInputs(b, op)))
    else if (norm) b.add(skipNormNode(op, norm, normInputs(b, norm)))
    else b.apply('Add', [op.a, op.b], op.y)
  }
  return '/hidden'
}

/** Logits in float32. A tied head multiplies with the embedding, stored once. */
const headNodes = (b: Builder, { head, tied, embedding }: Model, hidden: string): void => {
  const module = tied && !b.scheme(head.name) ? moduleOf(embedding.tensor) : head.name
  if (b.float === 'float32') linearNodes(b, hidden, 'logits', head, module)
  else b.apply('Cast', [linearNodes(b, hidden, '/logits', head, module)], 'logits', { to: 1 })
}

const cacheValues = (model: Model, prefix: string, length: string, type: GraphValue['type']): GraphValue[] =>
  attentionsOf(model).flatMap(({ kvHeads, headDim }, layer) =>
    ['key', 'value'].map(kind => ({
      name: `${prefix}.${layer}.${kind}`,
      type,
      shape: ['batch_size', kvHeads, length, headDim],
    })),
  )

/** Every attention of a model, in order: the layers of its cache. */
export const attentionsOf = ({ blocks }: Model): readonly AttentionOp[] =>
  blocks.flatMap(({ ops }) => ops.filter(op => op.op === 'attention'))

/** @throws QuantizeError bad-input for a tensor called like a value of the graph */
const checkNames = ({ nodes, inputs, constants = [], external = [] }: Graph): void => {
  const values = new Set([
    ...nodes.flatMap(({ output }) => output),
    ...[...inputs, ...constants].map(({ name }) => name),
  ])
  for (const { name } of external)
    if (values.has(name))
      throw new QuantizeError('bad-input', `tensor ${printable(name)} has the name of a value of the graph`)
}

/**
 * @param tensors all that the data files hold; each becomes an initializer of its name
 * @param half computes in float16, which all float tensors must then be
 * @throws QuantizeError unsupported for a model that the operators cannot compute
 */
export const decoderGraph = (
  model: Model,
  linears: readonly LinearScheme[],
  tensors: readonly PlacedTensor[],
  half: boolean,
): Graph => {
  for (const { name, ops } of model.blocks) for (const op of ops) if (op.op === 'attention') checkHeads(op, name)
  const byName = new Map(tensors.map(tensor => [tensor.name, tensor]))
  const b = createBuilder(byName, new Map(linears.map(scheme => [scheme.name, scheme])), half ? 'float16' : 'float32')
  positionNodes(b)
  headNodes(b, model, opNodes(b, model, embedded(b, model)))
  const graph: Graph = {
    nodes: b.nodes,
    inputs: [
      { name: 'input_ids', type: 'int64', shape: ['batch_size', 'sequence_length'] },
      { name: 'attention_mask', type: 'int64', shape: ['batch_size', 'total_sequence_length'] },
      ...cacheValues(model, 'past_key_values', 'past_sequence_length', b.float),
    ],
    outputs: [
      { name: 'logits', shape: ['batch_size', 'sequence_length', model.vocabulary] },
      ...cacheValues(model, 'present', 'total_sequence_length', b.float),
    ],
    constants: b.constants,
    external: tensors.map((tensor): ExternalConstant => ({ ...tensor, type: elementType(tensor) })),
  }
  checkNames(graph)
  return graph
}
