/** Linears and the embedding, quantized or not, as nodes over values [B, S, features]. */
import type { Linear, LinearScheme, Model } from '../../contracts.ts'
import { microsoft } from '../../engine/ort/onnx.ts'
import { moduleOf } from '../stored.ts'
import { inputShape } from './attention.ts'
import type { Builder } from './builder.ts'
import { partNames } from './layout.ts'

/**
 * Activations stay float32: 4 would quantize them to 8 bits, 0.5 % off (measured, onnxruntime 1.31). Half precision is computed as such
 * where a provider has it.
 */
const accuracyLevel = 1

/** MatMulNBits' inputs beside x. */
const quantizedInputs = (b: Builder, { name, bits, symmetric }: LinearScheme): string[] => {
  const names = partNames(name, bits)
  return [names.codes, b.tensor(names.scales), ...(symmetric ? [] : [names.zeros])]
}

const quantizedLinear = (b: Builder, x: string, y: string, scheme: LinearScheme): string => {
  const { out, in: inputs, bits, group } = scheme
  const attributes = { K: inputs, N: out, bits, block_size: group as number, accuracy_level: accuracyLevel }
  return b.apply('MatMulNBits', [x, ...quantizedInputs(b, scheme)], y, attributes, microsoft)
}

/**
 * Weights are stored [out, in]: Gemm multiplies by the transposed one without a copy (a Transpose of it would be folded into one), but
 * takes rows [B·S, in] only.
 */
const denseLinear = (b: Builder, x: string, y: string, { weight, bias, out, in: inputs }: Linear): string => {
  const rows = b.apply('Reshape', [x, b.whole([-1, inputs])], `${y}/rows`)
  const parameters = [b.view(weight), ...(bias ? [b.view(bias)] : [])]
  const product = b.apply('Gemm', [rows, ...parameters], `${y}/product`, { transB: 1 })
  return b.apply('Reshape', [product, shapeWith(b, out)], y)
}

/** [B, S, width] as a value. */
const shapeWith = (b: Builder, width: number): string => {
  const name = `/shape/${width}`
  if (!b.nodes.some(made => made.name === name)) b.apply('Concat', [inputShape, b.whole([width])], name, { axis: 0 })
  return name
}

/** y = x·Wᵀ + bias. @param module whose weight it multiplies with, where that is not its own (a tied head) */
export const linearNodes = (b: Builder, x: string, y: string, linear: Linear, module = linear.name): string => {
  const scheme = b.scheme(module)
  if (!scheme) return denseLinear(b, x, y, linear)
  if (!linear.bias) return quantizedLinear(b, x, y, scheme)
  const product = quantizedLinear(b, x, `${y}/product`, scheme)
  return b.apply('Add', [product, b.view(linear.bias)], y)
}

/** Rows of the embedding for the token ids. */
export const embeddingNodes = (b: Builder, { embedding }: Model, ids: string, y: string): string => {
  const scheme = b.scheme(moduleOf(embedding.tensor))
  if (!scheme) {
    const { name, type } = b.stored(embedding.tensor)
    return b.cast(b.apply('Gather', [name, ids], y), type)
  }
  const { out, in: inputs, bits, group, symmetric } = scheme
  const names = partNames(scheme.name, bits)
  const rows = b.apply('Reshape', [names.codes, b.whole([out, (inputs * bits) / 8])], `/${names.codes}/rows`)
  const parameters = [b.tensor(names.scales), ...(symmetric ? [] : [names.zeros])]
  const attributes = { bits, block_size: group as number, gather_axis: 0, quantize_axis: 1 }
  return b.apply('GatherBlockQuantized', [rows, ids, ...parameters], y, attributes, microsoft)
}
