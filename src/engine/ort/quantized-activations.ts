/**
 * What a runtime does to a linear's input before it multiplies: quantize and dequantize, as nodes. Integers and FP8 values times a scale are
 * what its integer product computes, but for the order of float32 sums (test/engine/ort/integer-product.test.ts). Which schemes there can be:
 * evaluate/activation-scheme.ts.
 */
import type { NodeProto } from 'onnx-buf'
import type { ActivationScheme } from '../../contracts.ts'
import { codeRange, leastScale, roundTo, scaleOf } from './activation-grids.ts'
import { type NodeBuilder, nodeBuilder } from './node-builder.ts'
import { type Constant, float16, node } from './onnx.ts'
import type { Engine } from './session.ts'

/** Nodes from rows `x` [T, width] to the rows `result`, and the constants that they read. */
export interface QuantizedInput {
  readonly nodes: readonly NodeProto[]
  readonly constants: readonly Constant[]
  readonly result: string
}

/** Symmetric, the scale of each group from its largest magnitude. */
const symmetric = (b: NodeBuilder, x: string, scheme: ActivationScheme): string => {
  const scale = scaleOf(b, b.apply('ReduceMax', [b.apply('Abs', [x]), b.whole(-1)]), scheme)
  return b.apply('Mul', [roundTo(b, b.apply('Div', [x, scale]), scheme), scale])
}

/** Asymmetric integers with scale and zero point of each group (compressed-tensors, quantization/utils/helpers.py). */
const asymmetric = (b: NodeBuilder, x: string, scheme: ActivationScheme): string => {
  const [lowest, highest] = codeRange(scheme)
  const zero = b.number(0)
  const low = b.apply('Min', [b.apply('ReduceMin', [x, b.whole(-1)]), zero])
  const high = b.apply('Max', [b.apply('ReduceMax', [x, b.whole(-1)]), zero])
  const span = b.apply('Div', [b.apply('Sub', [high, low]), b.number(highest - lowest)])
  const scale = b.apply('Max', [span, b.number(leastScale)])
  const point = roundTo(b, b.apply('Sub', [b.number(lowest), b.apply('Div', [low, scale])]), scheme)
  const code = roundTo(b, b.apply('Add', [b.apply('Div', [x, scale]), point]), scheme)
  return b.apply('Mul', [b.apply('Sub', [code, point]), scale])
}

/** With a stored scale and zero point. */
const fixed = (b: NodeBuilder, x: string, scheme: ActivationScheme): string => {
  const { scale, zero = 0 } = scheme
  if (scale === undefined) throw new Error('a static scheme without its scale')
  const step = b.number(scale)
  const scaled = b.apply('Add', [b.apply('Div', [x, step]), b.number(zero)])
  return b.apply('Mul', [b.apply('Sub', [roundTo(b, scaled, scheme), b.number(zero)]), step])
}

/** Values that share a scale: one token's, so many of them, or a sequence's (a run holds as many sequences as fit, of which no result may depend). */
const groupLength = ({ granularity }: ActivationScheme, width: number, seqLen: number): number =>
  granularity === 'token' ? width : granularity === 'tensor' ? seqLen * width : granularity

/** @param x [B · seqLen, width] or [B, seqLen, width]; the result is [B · seqLen, width] */
const quantized = (b: NodeBuilder, x: string, scheme: ActivationScheme, seqLen: number, width: number): string => {
  const length = groupLength(scheme, width, seqLen)
  if (width % length !== 0 && length !== seqLen * width) throw new Error(`groups of ${length} of ${width} features`)
  const groups = b.apply('Reshape', [x, b.whole(-1, (seqLen * width) / length, length)])
  const round = scheme.dynamic ? (scheme.symmetric ? symmetric : asymmetric) : fixed
  return b.apply('Reshape', [round(b, groups, scheme), b.whole(-1, width)])
}

/** Whether bitsandbytes computes it, which has no other outlier split. */
const isBitsandbytes = ({ grid, symmetric, granularity, dynamic }: ActivationScheme): boolean =>
  grid === 'int8' && symmetric && granularity === 'token' && dynamic

/**
 * LLM.int8() (arXiv 2208.07339) as bitsandbytes 0.50 computes it (backends/default/ops.py, int8_vectorwise_quant): values go through float16;
 * the scale of a token is that of its values below the threshold; features that reach it in any token of a sequence stay as they are.
 * @param threshold 0: none do
 */
const bitsandbytesSplit = (b: NodeBuilder, x: string, threshold: number, seqLen: number, width: number): string => {
  const sequences = b.apply('Reshape', [x, b.whole(-1, seqLen, width)])
  const half = b.apply('Cast', [b.apply('Cast', [sequences], { to: float16 })], { to: 1 })
  const magnitude = b.apply('Abs', [half])
  const limit = b.number(threshold > 0 ? threshold : Number.MAX_VALUE)
  const small = b.apply('Where', [b.apply('GreaterOrEqual', [magnitude, limit]), b.number(0), magnitude])
  const absmax = b.apply('Max', [b.apply('ReduceMax', [small, b.whole(-1)]), b.number(leastScale)])
  const factor = b.apply('Div', [b.number(127), absmax])
  const codes = b.apply('Round', [b.apply('Mul', [half, factor])])
  const decoded = b.apply('Mul', [codes, b.apply('Div', [absmax, b.number(127)])])
  const columns = b.apply('ReduceMax', [magnitude, b.whole(1)]) // [B, 1, width]
  const kept = b.apply('Where', [b.apply('GreaterOrEqual', [columns, limit]), sequences, decoded])
  return b.apply('Reshape', [kept, b.whole(-1, width)])
}

/** The split of the paper around any scheme: features that reach the threshold in any token of a sequence stay, and are no part of any range. */
const outlierSplit = (
  b: NodeBuilder,
  x: string,
  scheme: ActivationScheme,
  threshold: number,
  seqLen: number,
  width: number,
): string => {
  const sequences = b.apply('Reshape', [x, b.whole(-1, seqLen, width)])
  const columns = b.apply('ReduceMax', [b.apply('Abs', [sequences]), b.whole(1)]) // [B, 1, width]
  const outlier = b.apply('GreaterOrEqual', [columns, b.number(threshold)])
  const rest = quantized(b, b.apply('Where', [outlier, b.number(0), sequences]), scheme, seqLen, width)
  const kept = b.apply('Where', [outlier, sequences, b.apply('Reshape', [rest, b.whole(-1, seqLen, width)])])
  return b.apply('Reshape', [kept, b.whole(-1, width)])
}

/**
 * @param x rows [T, width] of whole sequences of seqLen tokens
 * @param prefix of all names that are made
 */
export const quantizedInput = (
  x: string,
  width: number,
  scheme: ActivationScheme,
  seqLen: number,
  prefix: string,
): QuantizedInput => {
  const b = nodeBuilder(prefix)
  const { outliers } = scheme
  const result =
    outliers !== undefined && isBitsandbytes(scheme)
      ? bitsandbytesSplit(b, x, outliers, seqLen, width)
      : outliers
        ? outlierSplit(b, x, scheme, outliers, seqLen, width)
        : quantized(b, x, scheme, seqLen, width)
  return { nodes: b.nodes, constants: b.constants, result }
}

/** Rows [T, width], of whole sequences of seqLen tokens, as a linear with such an input multiplies them. */
export const quantizedRows = async (
  engine: Engine,
  rows: Float32Array,
  width: number,
  scheme: ActivationScheme,
  seqLen: number,
): Promise<Float32Array> => {
  const session = await engine.graph(`rows ${width} ${seqLen} ${JSON.stringify(scheme)}`, () => {
    const { nodes, constants, result } = quantizedInput('x', width, scheme, seqLen, 'rows')
    return {
      nodes: [...nodes, node('Identity', [result], ['y'])],
      constants,
      inputs: [{ name: 'x', shape: ['T', width] }],
      outputs: [{ name: 'y' }],
    }
  })
  const into = new Float32Array(rows.length)
  const shape = [rows.length / width, width]
  await session.run({ x: engine.tensor(rows, shape) }, { y: engine.tensor(into, shape) })
  return into
}
