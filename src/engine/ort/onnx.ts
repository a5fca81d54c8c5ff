/**
 * ONNX graphs as typed protobuf messages (onnx-buf), serialised for ONNX Runtime.
 * Opset 21 with IR 10 and com.microsoft 1: accepted by every ONNX Runtime since 1.19 (measured: docs/performance.md).
 */
import { create, toBinary } from '@bufbuild/protobuf'
import {
  type AttributeProto,
  AttributeProtoSchema,
  AttributeProto_AttributeType as AttributeType,
  TensorProto_DataLocation as DataLocation,
  GraphProtoSchema,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  OperatorSetIdProtoSchema,
  StringStringEntryProtoSchema,
  type TensorProto,
  TensorProtoSchema,
  TensorShapeProto_DimensionSchema,
  TensorShapeProtoSchema,
  type TypeProto,
  TypeProto_TensorSchema,
  TypeProtoSchema,
  ValueInfoProtoSchema,
} from 'onnx-buf'

/** Domain of ONNX Runtime's own operators. */
export const microsoft = 'com.microsoft'

/** Numbers of TensorProto.DataType. */
export const elementTypes = {
  float32: 1,
  uint8: 2,
  int8: 3,
  uint16: 4,
  int16: 5,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  float64: 11,
  uint32: 12,
  uint64: 13,
} as const
export type ElementType = keyof typeof elementTypes

/** ONNX's numbers of dtypes that values are cast to. */
export const float16 = 10
export const float8 = 17

/** A number is an integer attribute; a float one is written `{ float: 1 }`, whole or not (ONNX Runtime refuses the wrong kind). */
export type Attribute = number | { readonly float: number } | readonly number[]

const attribute = (name: string, value: Attribute): AttributeProto => {
  if (typeof value === 'number')
    return create(AttributeProtoSchema, { name, i: BigInt(value), type: AttributeType.INT })
  if ('float' in value) return create(AttributeProtoSchema, { name, f: value.float, type: AttributeType.FLOAT })
  return create(AttributeProtoSchema, { name, ints: value.map(BigInt), type: AttributeType.INTS })
}

/** One operator; an optional input or output is skipped with the empty name. */
export const node = (
  opType: string,
  input: readonly string[],
  output: readonly string[],
  attributes: Readonly<Record<string, Attribute>> = {},
  domain = '',
): NodeProto =>
  create(NodeProtoSchema, {
    opType,
    input: [...input],
    output: [...output],
    domain,
    attribute: Object.entries(attributes).map(([name, value]) => attribute(name, value)),
  })

export interface GraphValue {
  readonly name: string
  /** A number, or a name for a dimension left open; undefined: rank unknown. */
  readonly shape?: readonly (number | string)[]
  readonly type?: ElementType
}

export interface Constant {
  readonly name: string
  readonly type: ElementType
  readonly shape: readonly number[]
  readonly data: Float32Array<ArrayBuffer> | BigInt64Array<ArrayBuffer> | Int32Array<ArrayBuffer>
}

/** A constant whose data stand in another file, beside the model's. */
export interface ExternalConstant {
  readonly name: string
  readonly type: ElementType
  readonly shape: readonly number[]
  /** Basename. */
  readonly file: string
  /** From the start of the file. */
  readonly offset: number
  readonly bytes: number
}

export interface Graph {
  readonly nodes: readonly NodeProto[]
  readonly inputs: readonly GraphValue[]
  readonly outputs: readonly GraphValue[]
  readonly constants?: readonly Constant[]
  readonly external?: readonly ExternalConstant[]
}

const tensorType = ({ shape, type = 'float32' }: GraphValue): TypeProto =>
  create(TypeProtoSchema, {
    value: {
      case: 'tensorType',
      value: create(TypeProto_TensorSchema, {
        elemType: elementTypes[type],
        shape:
          shape &&
          create(TensorShapeProtoSchema, {
            dim: shape.map(size =>
              create(TensorShapeProto_DimensionSchema, {
                value:
                  typeof size === 'number'
                    ? { case: 'dimValue', value: BigInt(size) }
                    : { case: 'dimParam', value: size },
              }),
            ),
          }),
      }),
    },
  })

const valueInfo = (value: GraphValue) => create(ValueInfoProtoSchema, { name: value.name, type: tensorType(value) })

const constantTensor = ({ name, type, shape, data }: Constant): TensorProto =>
  create(TensorProtoSchema, {
    name,
    dataType: elementTypes[type],
    dims: shape.map(BigInt),
    rawData: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
  })

const externalTensor = ({ name, type, shape, file, offset, bytes }: ExternalConstant): TensorProto =>
  create(TensorProtoSchema, {
    name,
    dataType: elementTypes[type],
    dims: shape.map(BigInt),
    dataLocation: DataLocation.EXTERNAL,
    externalData: Object.entries({ location: file, offset, length: bytes }).map(([key, value]) =>
      create(StringStringEntryProtoSchema, { key, value: String(value) }),
    ),
  })

/** The bytes of a model file that holds this graph. @param producer name and version of what made it, where it is published */
export const encodeGraph = (graph: Graph, producer?: { readonly name: string; readonly version: string }): Uint8Array =>
  toBinary(
    ModelProtoSchema,
    create(ModelProtoSchema, {
      irVersion: 10n,
      opsetImport: [
        create(OperatorSetIdProtoSchema, { domain: '', version: 21n }),
        create(OperatorSetIdProtoSchema, { domain: microsoft, version: 1n }),
      ],
      ...(producer ? { producerName: producer.name, producerVersion: producer.version } : {}),
      graph: create(GraphProtoSchema, {
        name: 'graph',
        node: [...graph.nodes],
        input: graph.inputs.map(valueInfo),
        output: graph.outputs.map(valueInfo),
        initializer: [...(graph.constants ?? []).map(constantTensor), ...(graph.external ?? []).map(externalTensor)],
      }),
    }),
  )
