/**
 * The output head: logits stay inside the graph, which gives one number a token. LogSoftmax, not ReduceLogSumExp: the latter is
 * inexact in the fourth decimal (docs/performance.md).
 */
import type { NodeProto } from 'onnx-buf'
import { type Constant, type Graph, type GraphValue, node } from './onnx.ts'
import type { Engine, Tensor } from './session.ts'

/** A head's weight [vocabulary, hidden] and its bias [vocabulary], if it has one; tied or not, the embedding's or its own. */
export interface HeadWeight {
  readonly vocabulary: number
  readonly hidden: number
  readonly weight: Float32Array
  readonly bias?: Float32Array
}

/** Hidden states [rows, hidden] after the model's final norm. */
export interface Scored {
  readonly head: HeadWeight
  readonly hidden: Float32Array
}

/** One value a row. */
export interface Comparison {
  /** −ln p(target) of the reference and of the quantized model, nats. */
  readonly referenceNll: Float32Array
  readonly quantizedNll: Float32Array
  /** KL(reference ‖ quantized) = Σ p_ref (ln p_ref − ln p_q), nats. */
  readonly kl: Float32Array
  /** 1 where both models rank the same token first. */
  readonly agree: Int32Array
}

/** 512 rows × 49 152 tokens are 100 MB of logits; more rows a run are not faster (docs/performance.md). */
const maxRows = 512
const maxLogits = 2 ** 25

/** Rows a run; a last run of one row would be computed by a matrix-vector kernel, whose bits differ: it joins the one before. */
const runStarts = (rows: number, vocabulary: number): readonly number[] => {
  const each = Math.max(2, Math.min(maxRows, Math.floor(maxLogits / vocabulary)))
  const starts = Array.from({ length: Math.ceil(rows / each) }, (_, i) => i * each)
  if (starts.length > 1 && rows - starts.at(-1)! === 1) starts.pop()
  return [...starts, rows]
}

/** Nodes from `hidden<of>` to `logits<of>`. */
const logitsNode = (of: string, bias: boolean): NodeProto =>
  node('Gemm', [`hidden${of}`, `weight${of}`, ...(bias ? [`bias${of}`] : [])], [`logits${of}`], { transB: 1 })

/** Nodes from `logits<of>` and `targets` to `log<of>` [T, V] and `nll<of>` [T, 1]. */
const scoreNodes = (of: string): readonly NodeProto[] => [
  node('LogSoftmax', [`logits${of}`], [`log${of}`], { axis: -1 }),
  node('GatherElements', [`log${of}`, 'targets'], [`picked${of}`], { axis: 1 }),
  node('Neg', [`picked${of}`], [`nll${of}`]),
]

const headInputs = (of: string, bias: boolean): readonly GraphValue[] => [
  { name: `hidden${of}`, shape: ['T', `H${of}`] },
  { name: `weight${of}`, shape: ['V', `H${of}`] },
  ...(bias ? [{ name: `bias${of}`, shape: ['V'] }] : []),
]
const targetsInput: GraphValue = { name: 'targets', shape: ['T', 1], type: 'int64' }

const logitsGraph = (bias: boolean): Graph => ({
  nodes: [logitsNode('', bias)],
  inputs: headInputs('', bias),
  outputs: [{ name: 'logits', shape: ['T', 'V'] }],
})

const nllGraph = (bias: boolean): Graph => ({
  nodes: [logitsNode('', bias), ...scoreNodes('')],
  inputs: [...headInputs('', bias), targetsInput],
  outputs: [{ name: 'nll', shape: ['T', 1] }],
})

const lastAxis: Constant = { name: 'last', type: 'int64', shape: [1], data: BigInt64Array.of(-1n) }

const comparisonGraph = (referenceBias: boolean, quantizedBias: boolean): Graph => ({
  nodes: [
    logitsNode('R', referenceBias),
    logitsNode('Q', quantizedBias),
    ...scoreNodes('R'),
    ...scoreNodes('Q'),
    node('Sub', ['logR', 'logQ'], ['difference']),
    node('Exp', ['logR'], ['p']),
    node('Mul', ['p', 'difference'], ['terms']),
    node('ReduceSum', ['terms', 'last'], ['kl'], { keepdims: 1 }),
    node('ArgMax', ['logitsR'], ['topR'], { axis: -1 }),
    node('ArgMax', ['logitsQ'], ['topQ'], { axis: -1 }),
    node('Equal', ['topR', 'topQ'], ['same']),
    node('Cast', ['same'], ['agree'], { to: 6 }),
  ],
  inputs: [...headInputs('R', referenceBias), ...headInputs('Q', quantizedBias), targetsInput],
  outputs: [
    ...['nllR', 'nllQ', 'kl'].map(name => ({ name, shape: ['T', 1] })),
    { name: 'agree', shape: ['T', 1], type: 'int32' },
  ],
  constants: [lastAxis],
})

/** Inputs of one head for rows [start, end). */
const headFeeds = (engine: Engine, of: string, { head, hidden }: Scored, start: number, end: number) => ({
  [`hidden${of}`]: engine.tensor(hidden.subarray(start * head.hidden, end * head.hidden), [end - start, head.hidden]),
  [`weight${of}`]: engine.tensor(head.weight, [head.vocabulary, head.hidden]),
  ...(head.bias ? { [`bias${of}`]: engine.tensor(head.bias, [head.vocabulary]) } : {}),
})

const targetsFeed = (engine: Engine, targets: Int32Array, start: number, end: number) => ({
  targets: engine.tensor(BigInt64Array.from(targets.subarray(start, end), BigInt), [end - start, 1]),
})

const rowsOf = ({ head, hidden }: Scored): number => hidden.length / head.hidden

const floats = (tensor: Tensor): Float32Array => tensor.data as Float32Array

/** Logits [rows, vocabulary], all of them: for few rows. */
export const computeLogits = async (engine: Engine, scored: Scored): Promise<Float32Array> => {
  const bias = scored.head.bias !== undefined
  const session = await engine.graph(`head logits ${bias}`, () => logitsGraph(bias))
  const { logits } = await session.run(headFeeds(engine, '', scored, 0, rowsOf(scored)))
  return floats(logits)
}

/**
 * Negative log-likelihood of each row's target, in nats.
 * @param targets [rows] the token that follows each row's
 */
export const negativeLogLikelihood = async (
  engine: Engine,
  scored: Scored,
  targets: Int32Array,
): Promise<Float32Array> => {
  const bias = scored.head.bias !== undefined
  const session = await engine.graph(`head nll ${bias}`, () => nllGraph(bias))
  const losses = new Float32Array(targets.length)
  const starts = runStarts(rowsOf(scored), scored.head.vocabulary)
  for (const [i, start] of starts.slice(0, -1).entries()) {
    const end = starts[i + 1]
    const feeds = { ...headFeeds(engine, '', scored, start, end), ...targetsFeed(engine, targets, start, end) }
    await session.run(feeds, { nll: engine.tensor(losses.subarray(start, end), [end - start, 1]) })
  }
  return losses
}

/**
 * Two models on the same tokens, one value a row; both have the same vocabulary.
 * @param targets [rows] the token that follows each row's
 */
export const compareHeads = async (
  engine: Engine,
  reference: Scored,
  quantized: Scored,
  targets: Int32Array,
): Promise<Comparison> => {
  const biases = [reference.head.bias !== undefined, quantized.head.bias !== undefined] as const
  const session = await engine.graph(`head comparison ${biases}`, () => comparisonGraph(...biases))
  const rows = rowsOf(reference)
  const [referenceNll, quantizedNll, kl] = [0, 1, 2].map(() => new Float32Array(rows))
  const agree = new Int32Array(rows)
  const starts = runStarts(rows, reference.head.vocabulary * 2)
  for (const [i, start] of starts.slice(0, -1).entries()) {
    const end = starts[i + 1]
    const part = (data: Float32Array | Int32Array): Tensor => engine.tensor(data.subarray(start, end), [end - start, 1])
    const feeds = {
      ...headFeeds(engine, 'R', reference, start, end),
      ...headFeeds(engine, 'Q', quantized, start, end),
      ...targetsFeed(engine, targets, start, end),
    }
    await session.run(feeds, { nllR: part(referenceNll), nllQ: part(quantizedNll), kl: part(kl), agree: part(agree) })
  }
  return { referenceNll, quantizedNll, kl, agree }
}
