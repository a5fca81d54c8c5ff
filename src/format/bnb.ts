/**
 * bitsandbytes (bitsandbytes/functional.py, nn/modules.py; read by transformers): NF4 and FP4 in blocks over the flattened weight, plain or
 * with scales that are quantized themselves (`bnb:double`), and LLM.int8() with one scale a row.
 */
import type {
  CodedLinear,
  Format,
  LinearScheme,
  StoredTensor,
  TensorInfo,
  TensorLookup,
  TensorSource,
} from '../contracts.ts'
import { dynamicMap } from '../dtype/dynamic-map.ts'
import { bnbFp4Levels, nf4Levels } from '../dtype/small-floats.ts'
import { bnbConfig, type DeclaredBnb, declaredBnb } from './bnb-config.ts'
import { type QuantState, quantStateBytes, quantStateText, readQuantState } from './bnb-state.ts'
import { packHighFirst, unpackHighFirst } from './nibbles.ts'
import {
  bytesOf,
  checkedPart,
  checkStored,
  damaged,
  floatBytes,
  groupRunsOf,
  none,
  readBytes,
  readFloats,
  roleOf,
  tensorInfo,
  withData,
} from './stored.ts'

const called = 'bitsandbytes'
const nestedBlock = 256

const tableOf = (type: QuantState['type']): Float32Array => (type === 'nf4' ? nf4Levels : bnbFp4Levels)
const typeOf = ({ grid }: Pick<LinearScheme, 'grid'>): QuantState['type'] => (grid === 'nf4' ? 'nf4' : 'fp4')
const blockOf = ({ group, in: inputs }: LinearScheme): number => (typeof group === 'number' ? group : inputs)

const int8Layout = ({ name, out, in: inputs }: LinearScheme): readonly TensorInfo[] => [
  tensorInfo(`${name}.weight`, 'I8', [out, inputs]),
  tensorInfo(`${name}.SCB`, 'F32', [out]),
  tensorInfo(`${name}.weight_format`, 'U8', []),
]

const fourBitLayout = (scheme: LinearScheme, double: boolean): readonly TensorInfo[] => {
  const { name, out, in: inputs } = scheme
  const weights = out * inputs
  const blocks = Math.ceil(weights / blockOf(scheme))
  const state = `${name}.weight.quant_state.bitsandbytes__${typeOf(scheme)}`
  return [
    tensorInfo(`${name}.weight`, 'U8', [Math.ceil(weights / 2), 1]),
    tensorInfo(`${name}.weight.absmax`, double ? 'U8' : 'F32', [blocks]),
    tensorInfo(`${name}.weight.quant_map`, 'F32', [16]),
    ...(double
      ? [
          tensorInfo(`${name}.weight.nested_absmax`, 'F32', [Math.ceil(blocks / nestedBlock)]),
          tensorInfo(`${name}.weight.nested_quant_map`, 'F32', [256]),
        ]
      : []),
    tensorInfo(state, 'U8', [quantStateBytes]),
  ]
}

const layoutOf = (scheme: LinearScheme, double: boolean): readonly TensorInfo[] =>
  scheme.grid === 'int' ? int8Layout(scheme) : fourBitLayout(scheme, double)

const packInt8 = (scheme: LinearScheme, { codes, scales }: CodedLinear): readonly StoredTensor[] =>
  withData(int8Layout(scheme), [
    bytesOf(Int8Array.from(codes, code => code - 128)),
    floatBytes(
      scales.map(scale => scale * 127),
      'F32',
    ),
    Uint8Array.of(0), // row-major
  ])

const packFourBit = (scheme: LinearScheme, linear: CodedLinear, double: boolean): readonly StoredTensor[] => {
  const { nested, codes, scales } = linear
  if (double && !nested) throw new Error(`${scheme.name}: double quantization without its second level`)
  const type = typeOf(scheme)
  const state = { type, block: blockOf(scheme), dtype: scheme.dtype, shape: [scheme.out, scheme.in] as const }
  return withData(fourBitLayout(scheme, double), [
    packHighFirst(codes),
    ...(nested && double ? [nested.codes] : [floatBytes(scales, 'F32')]),
    floatBytes(tableOf(type), 'F32'),
    ...(nested && double ? [floatBytes(nested.absmax, 'F32'), floatBytes(dynamicMap(), 'F32')] : []),
    quantStateText({ ...state, offset: double ? nested!.offset : undefined }),
  ])
}

const isBlockSize = (group: unknown): boolean => [32, 64, 128, 256, 512, 1024, 2048, 4096].includes(group as number)

const refuses = ({ grid, bits, symmetric, group, in: inputs, actOrder }: LinearScheme): string | undefined => {
  if (actOrder === 'g_idx') return 'bitsandbytes keeps blocks in the order of the weights; use --act-order static'
  if (grid === 'int') {
    if (bits !== 8 || !symmetric)
      return `bitsandbytes stores integers of 8 bits, symmetric; use --bits 8 --sym, or --grid nf4 for 4 bits`
    return group === 'channel' ? undefined : `LLM.int8() has one scale a row; use --group channel, not ${group}`
  }
  if (grid !== 'nf4' && grid !== 'bnb-fp4') return `bitsandbytes stores nf4, bnb-fp4 and int of 8 bits, not ${grid}`
  if (!isBlockSize(group)) return `bitsandbytes has blocks of 32, 64, 128 … 4096 weights; use --group 64, not ${group}`
  return inputs % (group as number) === 0
    ? undefined
    : `blocks of ${group} would cross the rows of ${inputs} inputs; a power of two from 32 that divides them would fit`
}

const partNames = (name: string) => ({ weight: `${name}.weight`, absmax: `${name}.weight.absmax` })

/** The state's tensor, whichever type it is of. */
const stateOf = <T extends TensorInfo>(name: string, lookup: (name: string) => T | undefined) =>
  (['nf4', 'fp4'] as const)
    .map(type => ({ type, tensor: lookup(`${name}.weight.quant_state.bitsandbytes__${type}`) }))
    .find(({ tensor }) => tensor !== undefined)

const int8Scheme = (name: string, weight: TensorInfo, scb: TensorInfo, declared: DeclaredBnb): LinearScheme => {
  checkStored(weight, ['I8'], [-1, -1], called)
  const [out, inputs] = weight.shape
  checkStored(scb, ['F32'], [out], called)
  return {
    name,
    role: roleOf(name),
    out,
    in: inputs,
    dtype: declared.dtype,
    grid: 'int',
    bits: 8,
    symmetric: true,
    group: 'channel',
    groups: 1,
    actOrder: 'none',
    activations: {
      grid: 'int8',
      symmetric: true,
      granularity: 'token',
      dynamic: true,
      outliers: declared.threshold,
    },
  }
}

/** The shape of a 4-bit weight stands in its state, which is read, but for that no tensor data is. */
const fourBitScheme = (name: string, tensors: ReadonlyMap<string, TensorInfo>, source: TensorSource): LinearScheme => {
  const state = readQuantState(source)
  const [out, inputs] = state.shape
  const { weight, absmax } = partNames(name)
  const lookup = (part: string) => tensors.get(part)
  const blocks = Math.ceil((out * inputs) / state.block)
  checkedPart(lookup as TensorLookup, weight, ['U8'], [Math.ceil((out * inputs) / 2), 1], called)
  checkedPart(lookup as TensorLookup, absmax, [state.offset === undefined ? 'F32' : 'U8'], [blocks], called)
  return {
    name,
    role: roleOf(name),
    out,
    in: inputs,
    dtype: state.dtype,
    grid: state.type === 'nf4' ? 'nf4' : 'bnb-fp4',
    bits: 4,
    symmetric: true,
    group: state.block,
    groups: Math.ceil(inputs / state.block),
    actOrder: 'none',
  }
}

const detectAs =
  (double: boolean): Format['detect'] =>
  (tensors, configs) => {
    const declared = declaredBnb(configs)
    if (!declared || declared.double !== double) return undefined
    const linears = new Map<string, LinearScheme>()
    for (const [tensor, info] of tensors) {
      const scb = /^(.*)\.SCB$/.exec(tensor)
      const state = /^(.*)\.weight\.quant_state\.bitsandbytes__(nf4|fp4)$/.exec(tensor)
      if (scb) {
        const weight = checkedPart(
          name => tensors.get(name) as TensorSource,
          `${scb[1]}.weight`,
          ['I8'],
          [-1, -1],
          called,
        )
        linears.set(scb[1], int8Scheme(scb[1], weight, info, declared))
      } else if (state && 'read' in info) {
        linears.set(state[1], fourBitScheme(state[1], tensors, info as TensorSource))
      }
    }
    return linears
  }

const unpackInt8 = (name: string, tensors: TensorLookup, weight: TensorSource): CodedLinear => {
  checkStored(weight, ['I8'], [-1, -1], called)
  const [out, inputs] = weight.shape
  const scb = checkedPart(tensors, `${name}.SCB`, ['F32'], [out], called)
  const bytes = readBytes(weight, called)
  return {
    decode: 'affine',
    out,
    in: inputs,
    bits: 8,
    codes: bytes.map(byte => byte ^ 128),
    scales: readFloats(scb, called).map(absmax => absmax / 127),
    zeros: new Float32Array(out).fill(128),
    biases: none,
    levels: none,
    groupOf: new Int32Array(inputs),
  }
}

/** Scales of all blocks, and their second level. */
const readScales = (name: string, tensors: TensorLookup, blocks: number, { offset }: QuantState) => {
  const { absmax } = partNames(name)
  if (offset === undefined)
    return { scales: readFloats(checkedPart(tensors, absmax, ['F32'], [blocks], called), called) }
  const codes = readBytes(checkedPart(tensors, absmax, ['U8'], [blocks], called), called)
  const shape = [Math.ceil(blocks / nestedBlock)]
  const nestedAbsmax = readFloats(checkedPart(tensors, `${name}.weight.nested_absmax`, ['F32'], shape, called), called)
  const map = readFloats(checkedPart(tensors, `${name}.weight.nested_quant_map`, ['F32'], [256], called), called)
  const scales = Float32Array.from(codes, (code, i) =>
    Math.fround(Math.fround(map[code] * nestedAbsmax[Math.floor(i / nestedBlock)]) + offset),
  )
  return { scales, nested: { codes, absmax: nestedAbsmax, offset } }
}

/** As [out, in] where blocks do not cross rows, else as [blocks, block]: the last one may be longer than what is stored. */
const unpackFourBit = (
  name: string,
  tensors: TensorLookup,
  weight: TensorSource,
  stateTensor: TensorSource,
): CodedLinear => {
  const state = readQuantState(stateTensor)
  const [out, inputs] = state.shape
  const weights = out * inputs
  checkStored(weight, ['U8'], [Math.ceil(weights / 2), 1], called)
  const blocks = Math.ceil(weights / state.block)
  const map = readFloats(checkedPart(tensors, `${name}.weight.quant_map`, ['F32'], [16], called), called)
  const whole = inputs % state.block === 0
  const [rows, columns] = whole ? [out, inputs] : [blocks, state.block]
  return {
    decode: 'levels',
    out: rows,
    in: columns,
    bits: 4,
    codes: paddedTo(unpackHighFirst(readBytes(weight, called), weights), rows * columns),
    ...readScales(name, tensors, blocks, state),
    zeros: none,
    biases: none,
    levels: map,
    groupOf: groupRunsOf(columns, state.block),
  }
}

const paddedTo = (codes: Uint8Array, length: number): Uint8Array => {
  if (codes.length === length) return codes
  const padded = new Uint8Array(length)
  padded.set(codes)
  return padded
}

const unpack = (name: string, tensors: TensorLookup): CodedLinear => {
  const state = stateOf(name, tensors)
  const weight = tensors(`${name}.weight`)
  if (!weight) throw damaged({ name: `${name}.weight`, dtype: 'U8', shape: [], bytes: 0 }, 'is missing', called)
  return state ? unpackFourBit(name, tensors, weight, state.tensor!) : unpackInt8(name, tensors, weight)
}

const bnbFormat = (name: string, double: boolean): Format => ({
  name,
  facts: {
    summary: double ? 'bitsandbytes with double quantization' : 'bitsandbytes: NF4, FP4, LLM.int8()',
    grids: double ? ['nf4', 'bnb-fp4'] : ['nf4', 'bnb-fp4', 'int'],
    bits: double ? [4] : [4, 8],
    groups: '4 bits: 32 … 4096, powers of two that divide the inputs; 8 bits: channel',
    loaders: 'transformers with bitsandbytes (0.50 also on CPUs)',
    defaults: { grid: 'nf4' },
    head: true,
    embedding: false,
  },
  storage: ({ grid }) =>
    grid === 'int'
      ? { decode: 'affine', scaleDtype: 'F24', zeroRange: [128, 128] }
      : { decode: 'levels', scaleDtype: 'F32', ...(double ? { second: 'nested' as const } : {}) },
  refuses: scheme =>
    double && scheme.grid === 'int' ? 'double quantization is of 4-bit scales; use --format bnb' : refuses(scheme),
  warnings: ({ grid }) =>
    grid === 'int' ? ['LLM.int8(): the runtime quantizes what linears read to 8 bits as well; eval does the same'] : [],
  layout: scheme => layoutOf(scheme, double),
  pack: (scheme, linear) => (scheme.grid === 'int' ? packInt8(scheme, linear) : packFourBit(scheme, linear, double)),
  unpack: (module, tensors) => unpack(module, tensors),
  detect: detectAs(double),
  assemble: (sourceConfig, facts) => bnbConfig(sourceConfig, facts, double),
})

export const bnb = bnbFormat('bnb', false)
export const bnbDouble = bnbFormat('bnb:double', true)
