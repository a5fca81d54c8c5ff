/**
 * What a runtime does to a linear's input before it multiplies: quantize and dequantize, as nodes. Integers and FP8 values times a scale are
 * what its integer product computes, but for the order of float32 sums.
 */
import type { NodeProto } from 'onnx-buf'
import type { ActivationScheme } from '../../contracts.ts'
import { QuantizeError } from '../../errors.ts'
import { type Attribute, type Constant, float8, float16, node } from './onnx.ts'
import type { Engine } from './session.ts'

/** Largest magnitudes of FP8 E4M3 (OCP). */
const fp8Largest = 448

/** Nodes from rows `x` [T, width] to the rows `result`, and the constants that they read. */
export interface QuantizedInput {
  readonly nodes: readonly NodeProto[]
  readonly constants: readonly Constant[]
  readonly result: string
}

/** Collects nodes and constants under one prefix. */
const builder = (prefix: string) => {
  const nodes: NodeProto[] = []
  const constants: Constant[] = []
  let count = 0
  const fresh = (): string => `${prefix}.${count++}`
  return {
    nodes,
    constants,
    apply(opType: string, inputs: readonly string[], attributes: Readonly<Record<string, Attribute>> = {}): string {
      const result = fresh()
      nodes.push(node(opType, inputs, [result], attributes))
      return result
    },
    number(value: number): string {
      const name = fresh()
      constants.push({ name, type: 'float32', shape: [], data: Float32Array.of(value) })
      return name
    },
    whole(values: readonly number[]): string {
      const name = fresh()
      constants.push({ name, type: 'int64', shape: [values.length], data: BigInt64Array.from(values, BigInt) })
      return name
    },
  }
}

type Builder = ReturnType<typeof builder>

/** Smallest scale, where all values are 0: float32's epsilon, as compressed-tensors has it. */
const leastScale = 2 ** -23

const roundedTo = (b: Builder, scaled: string, { grid }: ActivationScheme, low: number, high: number): string => {
  if (grid === 'int8') return b.apply('Clip', [b.apply('Round', [scaled]), b.number(low), b.number(high)])
  const clipped = b.apply('Clip', [scaled, b.number(-fp8Largest), b.number(fp8Largest)])
  return b.apply('Cast', [b.apply('Cast', [clipped], { to: float8 })], { to: 1 })
}

/** Symmetric with the scale of each row of the last axis: absmax / half the range, codes low … 127 (or FP8). */
const symmetric = (b: Builder, x: string, scheme: ActivationScheme, halfRange: number, low: number): string => {
  const absmax = b.apply('ReduceMax', [b.apply('Abs', [x]), b.whole([-1])])
  const scale = b.apply('Max', [b.apply('Div', [absmax, b.number(halfRange)]), b.number(leastScale)])
  return b.apply('Mul', [roundedTo(b, b.apply('Div', [x, scale]), scheme, low, 127), scale])
}

/** Asymmetric int8 with scale and zero point of each row of the last axis (compressed-tensors, quantization/utils/helpers.py). */
const asymmetric = (b: Builder, x: string): string => {
  const zero = b.number(0)
  const low = b.apply('Min', [b.apply('ReduceMin', [x, b.whole([-1])]), zero])
  const high = b.apply('Max', [b.apply('ReduceMax', [x, b.whole([-1])]), zero])
  const span = b.apply('Div', [b.apply('Sub', [high, low]), b.number(255)])
  const scale = b.apply('Max', [span, b.number(leastScale)])
  const wanted = b.apply('Round', [b.apply('Sub', [b.number(-128), b.apply('Div', [low, scale])])])
  const point = b.apply('Clip', [wanted, b.number(-128), b.number(127)])
  const shifted = b.apply('Round', [b.apply('Add', [b.apply('Div', [x, scale]), point])])
  const code = b.apply('Clip', [shifted, b.number(-128), b.number(127)])
  return b.apply('Mul', [b.apply('Sub', [code, point]), scale])
}

/** With a stored scale and zero point. */
const fixed = (b: Builder, x: string, scheme: ActivationScheme): string => {
  const { scale, zero = 0 } = scheme
  if (scale === undefined) throw new Error('a static scheme without its scale')
  const step = b.number(scale)
  const scaled = b.apply('Add', [b.apply('Div', [x, step]), b.number(zero)])
  return b.apply('Mul', [b.apply('Sub', [roundedTo(b, scaled, scheme, -128, 127), b.number(zero)]), step])
}

/**
 * LLM.int8() (arXiv 2208.07339) as bitsandbytes 0.50 computes it (backends/default/ops.py, int8_vectorwise_quant): values go through float16;
 * the scale of a token is that of its values below the threshold; features that reach it in any token of a sequence stay as they are.
 * @param threshold 0: none do
 */
const outlierSplit = (b: Builder, x: string, threshold: number, seqLen: number, width: number): string => {
  const sequences = b.apply('Reshape', [x, b.whole([-1, seqLen, width])])
  const half = b.apply('Cast', [b.apply('Cast', [sequences], { to: float16 })], { to: 1 })
  const magnitude = b.apply('Abs', [half])
  const limit = b.number(threshold > 0 ? threshold : Number.MAX_VALUE)
  const small = b.apply('Where', [b.apply('GreaterOrEqual', [magnitude, limit]), b.number(0), magnitude])
  const absmax = b.apply('Max', [b.apply('ReduceMax', [small, b.whole([-1])]), b.number(leastScale)])
  const factor = b.apply('Div', [b.number(127), absmax])
  const codes = b.apply('Round', [b.apply('Mul', [half, factor])])
  const decoded = b.apply('Mul', [codes, b.apply('Div', [absmax, b.number(127)])])
  const columns = b.apply('ReduceMax', [magnitude, b.whole([1])]) // [B, 1, width]
  const kept = b.apply('Where', [b.apply('GreaterOrEqual', [columns, limit]), sequences, decoded])
  return b.apply('Reshape', [kept, b.whole([-1, width])])
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
  const b = builder(prefix)
  const { granularity, grid, dynamic, outliers } = scheme
  if (grid !== 'int8' && grid !== 'fp8')
    throw new QuantizeError('unsupported', `activations in ${grid} are not evaluated yet; int8 and fp8 are`)
  const { reach = 127.5 } = scheme
  const halfRange = grid === 'fp8' ? fp8Largest : reach
  const done = (result: string): QuantizedInput => ({ nodes: b.nodes, constants: b.constants, result })
  if (outliers !== undefined) return done(outlierSplit(b, x, outliers, seqLen, width))
  if (!dynamic) return done(fixed(b, x, scheme))
  const byRow = (rows: string): string =>
    scheme.symmetric ? symmetric(b, rows, scheme, halfRange, -Math.ceil(reach)) : asymmetric(b, rows)
  if (typeof granularity !== 'number') return done(byRow(x))
  if (width % granularity !== 0) throw new Error(`groups of ${granularity} do not divide ${width} features`)
  const groups = b.apply('Reshape', [x, b.whole([-1, granularity])])
  return done(b.apply('Reshape', [byRow(groups), b.whole([-1, width])]))
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
