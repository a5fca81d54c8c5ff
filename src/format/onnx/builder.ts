/** Collects the nodes and constants of a graph. Every value is called by name; tensors of the checkpoint by their own. */
import type { NodeProto } from 'onnx-buf'
import type { LinearScheme, TensorInfo, WeightView } from '../../contracts.ts'
import { type Attribute, type Constant, type ElementType, elementTypes, node } from '../../engine/ort/onnx.ts'
import { QuantizeError } from '../../errors.ts'
import { printable } from '../../io/printable.ts'

export interface Builder {
  readonly nodes: readonly NodeProto[]
  readonly constants: readonly Constant[]
  /** The type in which the graph computes. */
  readonly float: 'float32' | 'float16'
  /** The scheme of a quantized module. */
  scheme(module: string): LinearScheme | undefined
  /** Adds a node that gives one value; returns the value's name. */
  apply(
    opType: string,
    inputs: readonly string[],
    name: string,
    attributes?: Readonly<Record<string, Attribute>>,
    domain?: string,
  ): string
  /** Adds a node that was made elsewhere, named after its first output. */
  add(made: NodeProto): void
  /** An int64 constant, a list or a scalar; equal ones are stored once. */
  whole(values: readonly number[] | number): string
  constant(constant: Constant): string
  /** A float value in the graph's type; `type` is what it has. */
  cast(value: string, type: ElementType): string
  /** A float tensor of the checkpoint, in the graph's type. */
  tensor(name: string): string
  /** The same for a view. @throws QuantizeError unsupported for a view of a part */
  view(view: WeightView): string
  /** As `tensor`, as it is stored. */
  stored(name: string): { readonly name: string; readonly type: ElementType }
}

const elementOf: Readonly<Record<string, ElementType>> = {
  F32: 'float32',
  F16: 'float16',
  F64: 'float64',
  U8: 'uint8',
  I8: 'int8',
  U16: 'uint16',
  I16: 'int16',
  U32: 'uint32',
  I32: 'int32',
  U64: 'uint64',
  I64: 'int64',
  BOOL: 'bool',
}

/** @throws QuantizeError unsupported for a dtype that ONNX stores in another way, or not at all */
export const elementType = ({ name, dtype }: TensorInfo): ElementType => {
  const type = elementOf[dtype]
  if (type) return type
  throw new QuantizeError('unsupported', `tensor ${printable(name)} is ${dtype}, which format onnx does not store`)
}

export const createBuilder = (
  tensors: ReadonlyMap<string, TensorInfo>,
  schemes: ReadonlyMap<string, LinearScheme>,
  float: 'float32' | 'float16',
): Builder => {
  const nodes: NodeProto[] = []
  const constants = new Map<string, Constant>()
  const casts = new Map<string, string>()
  const apply: Builder['apply'] = (opType, inputs, name, attributes, domain) => {
    const made = node(opType, inputs, [name], attributes, domain)
    made.name = name
    nodes.push(made)
    return name
  }
  const constant = (added: Constant): string => {
    constants.set(added.name, added)
    return added.name
  }
  const stored: Builder['stored'] = name => {
    const info = tensors.get(name)
    if (!info) throw new Error(`${name} is not among the output's tensors`)
    return { name, type: elementType(info) }
  }
  const cast: Builder['cast'] = (value, type) => {
    if (type === float) return value
    const known = casts.get(value) ?? apply('Cast', [value], `${value}/${float}`, { to: elementTypes[float] })
    casts.set(value, known)
    return known
  }
  const tensor = (name: string): string => cast(name, stored(name).type)
  return {
    nodes,
    get constants() {
      return [...constants.values()]
    },
    float,
    scheme: module => schemes.get(module),
    apply,
    add(made) {
      made.name = made.output[0]
      nodes.push(made)
    },
    whole(values) {
      const list = typeof values === 'number' ? [values] : values
      const shape = typeof values === 'number' ? [] : [list.length]
      const name = `/whole/${typeof values === 'number' ? values : `[${list}]`}`
      return constant({ name, type: 'int64', shape, data: BigInt64Array.from(list, BigInt) })
    },
    constant,
    cast,
    tensor,
    view({ tensor: name, rows, transpose }) {
      if (!rows && !transpose) return tensor(name)
      throw new QuantizeError('unsupported', `format onnx does not compute with a part of ${printable(name)}`)
    },
    stored,
  }
}
