/** What ggml's types are in the words of other formats: a grid, bits, groups. */
import type { Bits, GridName, LinearScheme, Storage, TypedScheme } from '../contracts.ts'
import { isWeightDtype } from '../dtype/convert.ts'
import { layoutOf } from './block-layouts.ts'
import { type GgmlTypeName, ggmlTypes } from './types.ts'

const gridOf = (type: GgmlTypeName): GridName => {
  if (layoutOf(type)?.decode !== 'levels') return 'int'
  return type === 'MXFP4' ? 'mxfp4' : 'iq4'
}

/** The scheme of a type that `unpackBlocks` decodes, or of values, which have no codes. */
export const schemeOfType = (type: GgmlTypeName): Omit<TypedScheme, 'instead'> => {
  if (isWeightDtype(type)) return { type, grid: 'int', bits: 8, symmetric: true, group: 'channel' }
  const { bits, decode, group } = layoutOf(type)!
  return { type, grid: gridOf(type), bits, symmetric: decode !== 'biased', group }
}

/** How it keeps scales. Those of k-quants stand under floats of super-blocks. */
export const storageOfType = (type: GgmlTypeName): Storage => {
  const { decode, zero = 0, scales, d } = layoutOf(type)!
  const second = scales ? { second: 'super' as const } : {}
  const scaleDtype = d.dtype === 'E8M0' ? 'E8M0' : 'F16'
  if (decode === 'affine') return { decode, scaleDtype, zeroRange: [zero, zero], ...second }
  return decode === 'biased' ? { decode, scaleDtype, biasDtype: 'F16', ...second } : { decode, scaleDtype, ...second }
}

/** Why rows of a weight cannot be blocks of a type, with types that would fit; undefined when they can. */
export const widthRefusal = (type: GgmlTypeName, { in: inputs }: Pick<LinearScheme, 'in'>): string | undefined => {
  const { block } = ggmlTypes[type]
  if (inputs % block === 0) return undefined
  const others = inputs % 32 === 0 ? 'q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl' : 'f16, bf16, f32'
  return `${type} has blocks of ${block} weights, which do not divide its ${inputs} inputs; ${others} would fit`
}

/** What --head-bits and --embed-bits mean: k-quants where rows have whole blocks of them. */
const typesOfBits: Readonly<Partial<Record<Bits, readonly GgmlTypeName[]>>> = {
  2: ['Q2_K'],
  3: ['Q3_K'],
  4: ['Q4_K', 'Q4_0'],
  5: ['Q5_K', 'Q5_0'],
  6: ['Q6_K'],
  8: ['Q8_0'],
}

/** undefined: there is no type of so many bits. */
export const typeOfBits = (bits: Bits, inputs: number): GgmlTypeName | undefined => {
  const types = typesOfBits[bits]
  return types?.find(type => inputs % ggmlTypes[type].block === 0) ?? types?.[0]
}
