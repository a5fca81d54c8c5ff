import type { NodeProto } from 'onnx-buf'
import { type Attribute, type Constant, node } from './onnx.ts'

/** Nodes and the constants that they read, under names that begin alike. */
export interface NodeBuilder {
  readonly nodes: readonly NodeProto[]
  readonly constants: readonly Constant[]
  /** One more node; gives the name of its output. */
  apply(opType: string, inputs: readonly string[], attributes?: Readonly<Record<string, Attribute>>): string
  /** A float32 scalar. */
  number(value: number): string
  /** Whole numbers: a shape, or axes. */
  whole(...values: readonly number[]): string
}

export const nodeBuilder = (prefix: string): NodeBuilder => {
  const nodes: NodeProto[] = []
  const constants: Constant[] = []
  let count = 0
  const fresh = (): string => `${prefix}.${count++}`
  return {
    nodes,
    constants,
    apply(opType, inputs, attributes = {}) {
      const result = fresh()
      nodes.push(node(opType, inputs, [result], attributes))
      return result
    },
    number(value) {
      const name = fresh()
      constants.push({ name, type: 'float32', shape: [], data: Float32Array.of(value) })
      return name
    },
    whole(...values) {
      const name = fresh()
      constants.push({ name, type: 'int64', shape: [values.length], data: BigInt64Array.from(values, BigInt) })
      return name
    },
  }
}
