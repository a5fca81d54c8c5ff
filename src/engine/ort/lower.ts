/**
 * Ops to ONNX graphs. Weights, norms, biases and rope tables are graph inputs, so that one session serves every block of the same
 * structure. Which operators are fastest, and their pitfalls: docs/performance.md.
 */
import type { NodeProto } from 'onnx-buf'
import type { Linear, Op, WeightView } from '../../contracts.ts'
import { type AttentionOp, attentionConstants, attentionInputs, attentionNodes } from './attention.ts'
import { type Constant, type Graph, type GraphValue, node } from './onnx.ts'
import { activationNode, type Norm, normNode, type OpOf, pairNorms, skipNormNode } from './op-nodes.ts'
import { safeThreads } from './products.ts'
import { quantizedInput } from './quantized-activations.ts'
import type { HeldValue, Segment } from './segments.ts'

/** A stored vector that a graph reads, a norm's weight or a bias: fed as [n], or as [n, 1] where it is added to columns. */
export interface Parameter {
  readonly input: string
  readonly view: WeightView
  readonly columns: boolean
}

/** A graph and what it is fed beside the segment's values. */
export interface Lowered {
  /** Equal for equal graphs. */
  readonly key: string
  readonly linears: readonly { readonly input: string; readonly linear: Linear }[]
  readonly parameters: readonly Parameter[]
  /** The op whose inputs (attention.ts, `attentionFeeds`) the graph wants. */
  readonly attention?: AttentionOp
  /** The output that holds the tap in columns [width, T]; undefined without a tap, or where the tap lies in columns anyway. */
  readonly transposed?: string
  /** Threads on which a run over so many rows has the bits that it has on one. */
  threadLimit(rows: number): number
  build(): Graph
}

/** y = x·Wᵀ + b in rows [T, out], or W·xᵀ + b in columns [out, T]; x in either. */
const linearNode = (
  x: string,
  y: string,
  weight: string,
  bias: readonly string[],
  columns: { readonly x: boolean; readonly y: boolean },
): NodeProto =>
  columns.y
    ? node('Gemm', [weight, x, ...bias], [y], { transB: columns.x ? 0 : 1 })
    : node('Gemm', [x, weight, ...bias], [y], { transA: columns.x ? 1 : 0, transB: 1 })

/** All that distinguishes an op's graph from another's: not the names of tensors, nor what tables hold. */
const signature = (op: Op, linears: ReadonlyMap<string, Linear>): unknown => {
  if (op.op === 'norm') return { ...op, weight: 0, bias: op.bias !== undefined }
  if (op.op === 'attention') return { ...op, rope: op.rope !== undefined }
  if (op.op !== 'linear') return op
  const { bias, activations } = linears.get(op.linear)!
  return { ...op, linear: bias !== undefined, activations }
}

/** Writes the nodes of a segment's ops and collects what they read. */
const writeNodes = (segment: Segment, byName: ReadonlyMap<string, Linear>, seqLen: number) => {
  const held = segment.inputs.filter(({ layout }) => layout === 'columns').map(({ name }) => name)
  const columns = new Set([...segment.columns, ...held])
  const linears: { input: string; linear: Linear; columns: boolean }[] = []
  const parameters: Parameter[] = []
  const parameter = (view: WeightView | undefined, asColumns = false): string[] => {
    if (!view) return []
    const input = `p${parameters.length}`
    parameters.push({ input, view, columns: asColumns })
    return [input]
  }
  const constants: Constant[] = []
  const quantized = new Map<string, string>()
  /** The rows that a linear multiplies: x, or what its runtime makes of it; linears of one scheme share that. */
  const inputOf = (x: string, { activations, in: width }: Linear): { nodes: readonly NodeProto[]; value: string } => {
    if (!activations) return { nodes: [], value: x }
    const key = `${x}.${JSON.stringify(activations)}`
    const known = quantized.get(key)
    if (known) return { nodes: [], value: known }
    if (columns.has(x)) throw new Error('quantized activations lie in rows')
    const made = quantizedInput(x, width, activations, seqLen, `${x}.quantized${quantized.size}`)
    constants.push(...made.constants)
    quantized.set(key, made.result)
    return { nodes: made.nodes, value: made.result }
  }
  const linear = ({ x, y, linear: name }: OpOf<'linear'>): readonly NodeProto[] => {
    const found = byName.get(name)!
    const input = `w${linears.length}`
    const layout = { x: columns.has(x), y: columns.has(y) }
    linears.push({ input, linear: found, columns: layout.y })
    const { nodes, value } = inputOf(x, found)
    return [...nodes, linearNode(value, y, input, parameter(found.bias, layout.y), layout)]
  }
  const normInputs = ({ weight, bias }: Norm): readonly string[] => [...parameter(weight), ...parameter(bias)]
  const nodes = pairNorms(segment.ops).flatMap(({ op, norm }): readonly NodeProto[] => {
    if (op.op === 'linear') return linear(op)
    if (op.op === 'attention') return attentionNodes(op, seqLen)
    if (op.op === 'activation') return [activationNode(op.kind, op.x, op.y)]
    if (op.op === 'multiply') return [node('Mul', [op.a, op.b], [op.y])]
    if (op.op === 'norm') return [normNode(op, normInputs(op))]
    return [norm ? skipNormNode(op, norm, normInputs(norm)) : node('Add', [op.a, op.b], [op.y])]
  })
  return { nodes, linears, parameters, constants }
}

const graphValue = ({ name, width, layout }: HeldValue): GraphValue => ({
  name,
  shape: layout === 'rows' ? ['T', width] : [width, 'T'],
})

/**
 * @param byName the block's linears
 * @param seqLen tokens a sequence; the rows of a run are whole sequences
 */
export const lower = (segment: Segment, byName: ReadonlyMap<string, Linear>, seqLen: number): Lowered => {
  const { inputs, outputs, tap } = segment
  const { nodes, linears, parameters, constants } = writeNodes(segment, byName, seqLen)
  const attention = segment.ops.find(op => op.op === 'attention')
  const transposed = tap?.layout === 'rows' ? `${tap.name}.transposed` : undefined
  const signatures = segment.ops.map(op => signature(op, byName))
  return {
    key: JSON.stringify([
      signatures,
      inputs,
      outputs,
      transposed,
      [...segment.columns],
      attention || constants.length > 0 ? seqLen : 0,
    ]),
    linears,
    parameters,
    attention,
    transposed,
    threadLimit: rows =>
      Math.min(
        ...linears.map(({ linear: { out }, columns }) => (columns ? safeThreads(out, rows) : safeThreads(rows, out))),
      ),
    build: () => ({
      nodes: transposed ? [...nodes, node('Transpose', [tap!.name], [transposed], { perm: [1, 0] })] : nodes,
      inputs: [
        ...inputs.map(graphValue),
        ...linears.map(({ input, linear }) => ({ name: input, shape: [linear.out, linear.in] })),
        ...parameters.map(({ input, columns }) => ({ name: input, shape: columns ? ['n', 1] : ['n'] })),
        ...(attention ? attentionInputs(attention) : []),
      ],
      outputs: [...outputs.map(graphValue), ...(transposed ? [{ name: transposed, shape: [tap!.width, 'T'] }] : [])],
      constants: [...constants, ...(attention ? attentionConstants(attention, seqLen) : [])],
    }),
  }
}
