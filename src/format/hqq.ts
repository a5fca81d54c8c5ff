/**
 * HQQ (hqq/core/quantize.py; Badri and Shaji 2023): W = (q − zero) · scale in groups along the flattened weight. The matrix of groups
 * [n, g] is packed across its rows (row-chunks.ts): `W_q` U8 or I32, `scale` and `zero` [n, 1], and the fields of hqq-meta.ts.
 */

import type { Bits, CodedLinear, Format, LinearScheme, StoredTensor, TensorInfo } from '../contracts.ts'
import { bytesOf } from '../dtype/bytes.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { assembleHqq, declaresHqq } from './hqq-config.ts'
import { groupOf, metaFields } from './hqq-meta.ts'
import { fillsWords, hqqBits, packingOf } from './hqq-packing.ts'
import { hqqLinears, unpackHqq } from './hqq-read.ts'
import { chunkRows, packRowChunks } from './row-chunks.ts'
import { floatBytes, tensorInfo, withData } from './stored.ts'

/** The library computes in half precision; of a float32 model it takes float16 scales and widens them. */
const scaleDtype = ({ dtype }: LinearScheme): WeightDtype => (dtype === 'BF16' ? 'BF16' : 'F16')

const groupsOf = (scheme: LinearScheme): number => (scheme.out * scheme.in) / groupOf(scheme)

const coded = (scheme: LinearScheme): readonly TensorInfo[] => {
  const { name, bits } = scheme
  const groups = groupsOf(scheme)
  const { word, shifts } = packingOf(bits)!
  return [
    tensorInfo(`${name}.W_q`, word, [chunkRows(groups, shifts), groupOf(scheme)]),
    tensorInfo(`${name}.scale`, scaleDtype(scheme), [groups, 1]),
    tensorInfo(`${name}.zero`, scaleDtype(scheme), [groups, 1]),
  ]
}

const layout = (scheme: LinearScheme): readonly TensorInfo[] => [
  ...coded(scheme),
  ...metaFields(scheme).map(({ info }) => info),
]

const wordsOf = (codes: Uint8Array, scheme: LinearScheme): Uint8Array => {
  const { word, shifts } = packingOf(scheme.bits)!
  const length = chunkRows(groupsOf(scheme), shifts) * groupOf(scheme)
  return bytesOf(packRowChunks(codes, shifts, word === 'I32' ? new Uint32Array(length) : new Uint8Array(length)))
}

const pack = (scheme: LinearScheme, { codes, scales, zeros }: CodedLinear): readonly StoredTensor[] => {
  const dtype = scaleDtype(scheme)
  const data = [wordsOf(codes, scheme), floatBytes(scales, dtype), floatBytes(zeros, dtype)]
  return withData(layout(scheme), [...data, ...metaFields(scheme).map(field => field.data)])
}

const words = (bits: Bits): string => (bits === 1 ? 'a bit' : `${bits} bits`)

const refuses = (scheme: LinearScheme): string | undefined => {
  const { grid, bits, group, in: inputs, actOrder } = scheme
  if (grid !== 'int') return `HQQ stores integers, not ${grid}; --grid int would fit`
  const packing = packingOf(bits)
  if (!packing) return `HQQ packs codes of ${hqqBits.join(', ')} bits, and ${bits} as 8; --bits 8 would fit`
  if (group === 'block') return 'HQQ has one scale for a group of a row, not for a block; --group 64 would fit'
  if (actOrder === 'g_idx') return 'HQQ keeps groups in the order of the inputs; use --act-order static'
  if (typeof group === 'number' && (group % 8 !== 0 || inputs % group !== 0))
    return `HQQ has groups of a multiple of 8 that divides ${inputs} inputs, not of ${group}; --group channel would fit`
  const groups = groupsOf(scheme)
  if (fillsWords(groups, packing)) return undefined
  const per = packing.shifts.length
  return `${groups} groups are not a multiple of ${per}: HQQ packs ${words(bits)} of ${per} groups to a byte; --bits 3 or 8 would fit`
}

export const hqq: Format = {
  name: 'hqq',
  facts: {
    summary: 'HQQ, as transformers 4 writes it',
    grids: ['int'],
    bits: hqqBits,
    groups: 'any multiple of 8 that divides the inputs; channel; tensor (stored as channel)',
    loaders: 'hqq 0.2, transformers 4.46 to 4.57 (with hqq); not transformers 5',
    defaults: { bits: 4, symmetric: false, group: 64 },
    head: true,
    embedding: false,
  },
  storage: scheme => ({
    decode: 'affine',
    scaleDtype: scaleDtype(scheme),
    zeroRange: [0, 2 ** scheme.bits - 1],
    zeroDtype: scaleDtype(scheme),
  }),
  refuses,
  warnings: () => [
    'HQQ: transformers 5 does not load it; transformers 4.46 to 4.57 with the hqq package does (4.57 in float32 only)',
  ],
  layout,
  pack,
  unpack: (module, tensors) => unpackHqq(module, tensors),
  detect: (tensors, configs) => (declaresHqq(configs) ? hqqLinears(tensors) : undefined),
  assemble: assembleHqq,
}
