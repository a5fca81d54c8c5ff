/**
 * bitsandbytes (bitsandbytes/functional.py, nn/modules.py; read by transformers): NF4 and FP4 in blocks over the flattened weight, plain or
 * with scales that are quantized themselves (`bnb:double`), and LLM.int8() with one scale a row.
 */

import type { CodedLinear, Format, LinearScheme, StoredTensor, TensorInfo } from '../contracts.ts'
import { bytesOf } from '../dtype/bytes.ts'
import { dynamicMap } from '../dtype/dynamic-map.ts'
import { bnbConfig } from './bnb-config.ts'
import { detectBnb, nestedBlock, tableOf, unpackBnb } from './bnb-read.ts'
import { blockSizes, isBlockSize, type QuantState, quantStateBytes, quantStateText } from './bnb-state.ts'
import { packHighFirst } from './nibbles.ts'
import { floatBytes, tensorInfo, withData } from './stored.ts'

/** Without the offset, which is not known before the scales are. */
const stateOf = ({ grid, group, dtype, out, in: inputs }: LinearScheme): Omit<QuantState, 'offset'> => ({
  type: grid === 'nf4' ? 'nf4' : 'fp4',
  block: group as number,
  dtype,
  shape: [out, inputs],
})

const int8Layout = ({ name, out, in: inputs }: LinearScheme): readonly TensorInfo[] => [
  tensorInfo(`${name}.weight`, 'I8', [out, inputs]),
  tensorInfo(`${name}.SCB`, 'F32', [out]),
  tensorInfo(`${name}.weight_format`, 'U8', []),
]

const fourBitLayout = (scheme: LinearScheme, double: boolean): readonly TensorInfo[] => {
  const weight = `${scheme.name}.weight`
  const state = stateOf(scheme)
  const count = scheme.out * scheme.in
  const blocks = Math.ceil(count / state.block)
  const nested = [
    tensorInfo(`${weight}.nested_absmax`, 'F32', [Math.ceil(blocks / nestedBlock)]),
    tensorInfo(`${weight}.nested_quant_map`, 'F32', [256]),
  ]
  return [
    tensorInfo(weight, 'U8', [Math.ceil(count / 2), 1]),
    tensorInfo(`${weight}.absmax`, double ? 'U8' : 'F32', [blocks]),
    tensorInfo(`${weight}.quant_map`, 'F32', [16]),
    ...(double ? nested : []),
    tensorInfo(`${weight}.quant_state.bitsandbytes__${state.type}`, 'U8', [quantStateBytes(state, double)]),
  ]
}

/** The absmax of a row is 127 scales: exact, since `storage` keeps the scale's lowest 8 bits 0. */
const packInt8 = (scheme: LinearScheme, { codes, scales }: CodedLinear): readonly StoredTensor[] => {
  const absmax = scales.map(scale => scale * 127)
  const rows = Uint8Array.of(0)
  return withData(int8Layout(scheme), [
    bytesOf(Int8Array.from(codes, code => code - 128)),
    floatBytes(absmax, 'F32'),
    rows,
  ])
}

const packFourBit = (scheme: LinearScheme, { codes, scales }: CodedLinear): readonly StoredTensor[] => {
  const state = stateOf(scheme)
  return withData(fourBitLayout(scheme, false), [
    packHighFirst(codes),
    floatBytes(scales, 'F32'),
    floatBytes(tableOf(state.type), 'F32'),
    quantStateText({ ...state, offset: undefined }),
  ])
}

const packDouble = (scheme: LinearScheme, { codes, nested }: CodedLinear): readonly StoredTensor[] => {
  if (!nested) throw new Error(`${scheme.name}: double quantization without its second level`)
  const state = stateOf(scheme)
  return withData(fourBitLayout(scheme, true), [
    packHighFirst(codes),
    nested.codes,
    floatBytes(tableOf(state.type), 'F32'),
    floatBytes(nested.absmax, 'F32'),
    floatBytes(dynamicMap(), 'F32'),
    quantStateText({ ...state, offset: nested.offset }),
  ])
}

const blockRefusal = ({ group, in: inputs }: LinearScheme): string | undefined => {
  if (!isBlockSize(group)) return `bitsandbytes has blocks of 32, 64, 128 … 4096 weights; use --group 64, not ${group}`
  if (inputs % group === 0) return undefined
  const fitting = blockSizes.findLast(size => inputs % size === 0)
  const crossing = `blocks of ${group} would cross the rows of ${inputs} inputs`
  return fitting === undefined
    ? `${crossing}, and so would every other from 32 on; --format codebook holds ${inputs} inputs in other groups`
    : `${crossing}; use --group ${fitting}`
}

const refuses = (scheme: LinearScheme, double: boolean): string | undefined => {
  const { grid, bits, symmetric, group, actOrder } = scheme
  if (actOrder === 'g_idx') return 'bitsandbytes keeps blocks in the order of the weights; use --act-order static'
  if (grid === 'nf4' || grid === 'bnb-fp4') return blockRefusal(scheme)
  if (grid !== 'int') return `bitsandbytes stores nf4, bnb-fp4 and int of 8 bits, not ${grid}`
  if (double) return 'double quantization is of 4-bit scales; use --format bnb, or --grid nf4'
  if (bits !== 8 || !symmetric)
    return 'bitsandbytes stores integers of 8 bits, symmetric; use --bits 8 --sym, or --grid nf4 for 4 bits'
  return group === 'channel' ? undefined : `LLM.int8() has one scale a row; use --group channel, not ${group}`
}

const warnings = ({ grid, group }: LinearScheme): readonly string[] => [
  ...(grid === 'int'
    ? ['LLM.int8(): the runtime quantizes what linears read to 8 bits as well; eval does the same']
    : []),
  ...(group === 32 ? ['blocks of 32 are new in bitsandbytes (0.50 has them); older versions begin at 64'] : []),
]

const bnbFormat = (name: string, double: boolean): Format => {
  const fourBit = double ? packDouble : packFourBit
  return {
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
    refuses: scheme => refuses(scheme, double),
    warnings,
    layout: scheme => (scheme.grid === 'int' ? int8Layout(scheme) : fourBitLayout(scheme, double)),
    pack: (scheme, linear) => (scheme.grid === 'int' ? packInt8 : fourBit)(scheme, linear),
    unpack: (module, tensors) => unpackBnb(module, tensors),
    detect: (tensors, configs) => detectBnb(tensors, configs, double),
    assemble: (sourceConfig, facts) => bnbConfig(sourceConfig, facts, double),
  }
}

export const bnb = bnbFormat('bnb', false)
export const bnbDouble = bnbFormat('bnb:double', true)
