/**
 * Mixes: which type each weight of a llama gets, as llama-quantize chooses (llama.cpp, src/llama-quant.cpp: llama_tensor_get_type_impl and
 * tensor_type_fallback). Weights that matter more get more bits: attn_v, ffn_down in the first and last blocks, the head.
 */
import type { Bits } from '../contracts.ts'
import { isWeightDtype } from '../dtype/convert.ts'
import { type GgmlTypeName, ggmlTypes } from './types.ts'

/** A matrix; vectors stay F32. */
export interface MixTensor {
  /** Of llama.cpp. */
  readonly name: string
  readonly out: number
  readonly in: number
}

export interface MixModel {
  readonly blocks: number
  readonly heads: number
  readonly kvHeads: number
  readonly tied: boolean
}

/** A weight of a block, and what its type depends on. */
interface Place {
  readonly block: number
  readonly blocks: number
  /** Query heads that share a key and a value. */
  readonly grouped: number
  readonly withImatrix: boolean
}

/** undefined: the mix's base. */
type Rule = (place: Place) => GgmlTypeName | undefined

export interface Mix {
  /** general.file_type (include/llama.h, enum llama_ftype). */
  readonly fileType: number
  /** Of most weights. */
  readonly base: GgmlTypeName
  /** Of the base. */
  readonly bits: Bits
  readonly summary: string
  readonly attn_v?: Rule
  readonly attn_output?: Rule
  readonly ffn_down?: Rule
  /** Of the head, and of an embedding that is the head as well. */
  readonly head?: GgmlTypeName
}

const always =
  (type: GgmlTypeName): Rule =>
  () =>
    type

const eighth = (blocks: number): number => Math.floor(blocks / 8)

/** The first and the last eighth of the blocks, and every third between. */
const inImportantBlocks =
  (type: GgmlTypeName): Rule =>
  ({ block, blocks }) =>
    block < eighth(blocks) || block >= Math.floor((7 * blocks) / 8) || (block - eighth(blocks)) % 3 === 2
      ? type
      : undefined

const inFirstEighth =
  (type: GgmlTypeName): Rule =>
  ({ block, blocks }) =>
    block < eighth(blocks) ? type : undefined

/** ffn_down of the first blocks spoils a model in 4 bits without an imatrix. */
const iq4Rules = {
  attn_v: ({ grouped }: Place) => (grouped >= 4 ? 'Q5_K' : undefined),
  ffn_down: (place: Place) => (place.withImatrix ? undefined : inFirstEighth('Q5_K')(place)),
} as const

/** … and with one in blocks that have no minimum. */
const guarded = (type: GgmlTypeName) => ({
  ffn_down: (place: Place) => (place.withImatrix ? inFirstEighth(type)(place) : undefined),
})

const values = (name: string): string => `values in ${name}, unquantized`
const blocks = (bits: string, what: string): string => `${bits} bits a weight, ${what}`

export const mixes = {
  f32: { fileType: 0, base: 'F32', bits: 8, summary: values('float32') },
  f16: { fileType: 1, base: 'F16', bits: 8, summary: values('float16') },
  bf16: { fileType: 32, base: 'BF16', bits: 8, summary: values('bfloat16') },
  q8_0: { fileType: 7, base: 'Q8_0', bits: 8, summary: blocks('8.5', 'hardly any loss') },
  q6_k: { fileType: 18, base: 'Q6_K', bits: 6, summary: blocks('6.6', 'very little loss') },
  q5_k_m: {
    ...{ fileType: 17, base: 'Q5_K', bits: 5, summary: blocks('5.7', 'little loss') },
    ...{ attn_v: inImportantBlocks('Q6_K'), ffn_down: inImportantBlocks('Q6_K') },
  },
  q5_k_s: { fileType: 16, base: 'Q5_K', bits: 5, summary: blocks('5.5', 'little loss') },
  q4_k_m: {
    ...{ fileType: 15, base: 'Q4_K', bits: 4, summary: blocks('4.8', 'what most people use') },
    ...{ attn_v: inImportantBlocks('Q6_K'), ffn_down: inImportantBlocks('Q6_K') },
  },
  q4_k_s: {
    ...{ fileType: 14, base: 'Q4_K', bits: 4, summary: blocks('4.6', 'a little smaller than q4_k_m') },
    ...{ attn_v: ({ block }) => (block < 4 ? 'Q5_K' : undefined), ffn_down: inFirstEighth('Q5_K') },
  },
  q3_k_l: {
    ...{ fileType: 13, base: 'Q3_K', bits: 3, summary: blocks('4.3', 'some loss') },
    ...{ attn_v: always('Q5_K'), attn_output: always('Q5_K'), ffn_down: always('Q5_K') },
  },
  q3_k_m: {
    ...{ fileType: 12, base: 'Q3_K', bits: 3, summary: blocks('3.9', 'some loss') },
    attn_v: ({ block }) => (block < 2 ? 'Q5_K' : 'Q4_K'),
    attn_output: always('Q4_K'),
    ffn_down: ({ block, blocks }) => (block < Math.floor(blocks / 16) ? 'Q5_K' : 'Q4_K'),
  },
  q3_k_s: { fileType: 11, base: 'Q3_K', bits: 3, summary: blocks('3.5', 'much loss') },
  q2_k: {
    ...{ fileType: 10, base: 'Q2_K', bits: 2, summary: blocks('3.0', 'very much loss') },
    attn_v: ({ grouped }) => (grouped >= 4 ? 'Q4_K' : 'Q3_K'),
    attn_output: always('Q3_K'),
    ffn_down: always('Q3_K'),
  },
  iq4_xs: { fileType: 30, base: 'IQ4_XS', bits: 4, summary: blocks('4.3', 'the smallest of 4 bits'), ...iq4Rules },
  iq4_nl: { fileType: 25, base: 'IQ4_NL', bits: 4, summary: blocks('4.5', 'levels of unequal distance'), ...iq4Rules },
  q5_1: { fileType: 9, base: 'Q5_1', bits: 5, summary: blocks('6.0', 'older than k-quants, quick on any machine') },
  q5_0: { fileType: 8, base: 'Q5_0', bits: 5, summary: blocks('5.5', 'older, no minimum'), ...guarded('Q5_1') },
  q4_1: { fileType: 3, base: 'Q4_1', bits: 4, summary: blocks('5.0', 'older than k-quants, quick on any machine') },
  q4_0: { fileType: 2, base: 'Q4_0', bits: 4, summary: blocks('4.5', 'older, no minimum'), ...guarded('Q4_1') },
  /** llama.cpp has MXFP4 for experts only, and no experts here: all weights of blocks have it. */
  mxfp4: { fileType: 38, base: 'MXFP4', bits: 4, summary: blocks('4.3', 'OCP microscaling'), head: 'Q8_0' },
} as const satisfies Readonly<Record<string, Mix>>

export type MixName = keyof typeof mixes

/** Where rows have no whole blocks of a type. */
const narrower: Partial<Readonly<Record<GgmlTypeName, GgmlTypeName>>> = {
  IQ4_XS: 'IQ4_NL',
  Q2_K: 'Q4_0',
  Q3_K: 'Q4_0',
  Q4_K: 'Q5_0',
  Q5_K: 'Q5_1',
  Q6_K: 'Q8_0',
}

const hasBlocks = (type: GgmlTypeName, inputs: number): boolean => inputs % ggmlTypes[type].block === 0

export interface ChosenType {
  readonly type: GgmlTypeName
  /** The type that was wanted, whose blocks do not divide the rows. */
  readonly instead?: GgmlTypeName
}

const fitting = (wanted: GgmlTypeName, inputs: number): ChosenType => {
  if (hasBlocks(wanted, inputs)) return { type: wanted }
  const other = narrower[wanted] ?? wanted
  return { type: hasBlocks(other, inputs) ? other : 'F16', instead: wanted }
}

/**
 * Llama 2 and 3 of 70 billion weights share each value among 8 query heads: it is small, and more bits for it cost little. Llama 65B has as many
 * blocks and shares none; llama.cpp tells the two by that.
 */
const is70B = ({ blocks, grouped }: Place): boolean => blocks === 80 && grouped > 1

const typeInBlock = (mix: Mix, part: string, place: Place): GgmlTypeName => {
  const rule = part === 'attn_v' || part === 'attn_output' || part === 'ffn_down' ? mix[part] : undefined
  const type = rule?.(place) ?? mix.base
  const raised = part === 'attn_v' && is70B(place) && (type === 'Q3_K' || type === 'Q4_K')
  return raised ? 'Q5_K' : type
}

const typeOfHead = ({ base, head }: Mix, inputs: number): GgmlTypeName =>
  head ?? (base === 'Q8_0' || !hasBlocks(base, inputs) ? 'Q8_0' : 'Q6_K')

/** @param tensors the matrices of a llama without experts */
export const typesOf = (
  name: MixName,
  tensors: readonly MixTensor[],
  { blocks, heads, kvHeads, tied }: MixModel,
  withImatrix: boolean,
): ReadonlyMap<string, ChosenType> => {
  const mix: Mix = mixes[name]
  const common = { blocks, grouped: Math.floor(heads / kvHeads), withImatrix }
  const wanted = (tensor: MixTensor): GgmlTypeName => {
    const [, block, part] = /^blk\.(\d+)\.(\w+)\.weight$/.exec(tensor.name) ?? []
    if (isWeightDtype(mix.base)) return mix.base
    if (part !== undefined) return typeInBlock(mix, part, { ...common, block: Number(block) })
    return tensor.name === 'output.weight' || tied ? typeOfHead(mix, tensor.in) : (mix.head ?? mix.base)
  }
  return new Map(tensors.map(tensor => [tensor.name, fitting(wanted(tensor), tensor.in)]))
}
