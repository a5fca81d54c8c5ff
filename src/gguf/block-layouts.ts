/** The blocks of each type that we know how to decode (formats of ggml/src/ggml-common.h). */
import type { Bits, Decode } from '../contracts.ts'
import { bitRuns, nibbleHalves, type Plane, pairQuarters, plane } from './code-planes.ts'
import { nibblePairs, type SubScales, signedBytes, sixBitPairs, sixBitsSigned, splitSixBits } from './sub-scales.ts'
import type { GgmlTypeName } from './types.ts'

export interface BlockLayout {
  readonly decode: Decode
  readonly bits: Bits
  /** Of `affine`: the zero point of every weight. */
  readonly zero?: number
  /** Weights that share a scale. */
  readonly group: number
  /** Codes as bit planes; absent: five trits a byte (trits.ts). */
  readonly planes?: readonly Plane[]
  /** What is added to a stored byte to make a code: codes are not negative. */
  readonly offset?: number
  readonly d: { readonly at: number; readonly dtype: 'F16' | 'F32' | 'E8M0' }
  /** An F16: the scale of minima of a super-block, or the minimum of a block. */
  readonly dmin?: number
  readonly scales?: SubScales
}

const f16 = (at: number) => ({ at, dtype: 'F16' }) as const

/** Bit i of a u32. */
const highBits = (at: number): Plane => plane(32, { at, bits: 1, lowest: 4, byte: i => i >> 3, bit: i => i & 7 })

const wholeBytes = (weights: number, at: number): Plane => plane(weights, { at, bits: 8, byte: i => i, bit: () => 0 })

const layouts: Partial<Readonly<Record<GgmlTypeName, BlockLayout>>> = {
  Q4_0: { decode: 'affine', bits: 4, zero: 8, group: 32, d: f16(0), planes: [nibbleHalves(32, 2, 16)] },
  Q4_1: { decode: 'biased', bits: 4, group: 32, d: f16(0), dmin: 2, planes: [nibbleHalves(32, 4, 16)] },
  Q5_0: { decode: 'affine', bits: 5, zero: 16, group: 32, d: f16(0), planes: [nibbleHalves(32, 6, 16), highBits(2)] },
  Q5_1: { decode: 'biased', bits: 5, group: 32, d: f16(0), dmin: 2, planes: [nibbleHalves(32, 8, 16), highBits(4)] },
  Q8_0: { decode: 'affine', bits: 8, zero: 128, group: 32, d: f16(0), planes: [wholeBytes(32, 2)], offset: 128 },
  Q2_K: {
    ...{ decode: 'biased', bits: 2, group: 16, d: f16(80), dmin: 82 },
    ...{ scales: nibblePairs(0), planes: [pairQuarters(16)] },
  },
  Q3_K: {
    ...{ decode: 'affine', bits: 3, zero: 4, group: 16, d: f16(108) },
    ...{ scales: sixBitsSigned(96), planes: [pairQuarters(32), bitRuns(0, 2)] },
  },
  Q4_K: {
    ...{ decode: 'biased', bits: 4, group: 32, d: f16(0), dmin: 2 },
    ...{ scales: sixBitPairs(4), planes: [nibbleHalves(256, 16, 32)] },
  },
  Q5_K: {
    ...{ decode: 'biased', bits: 5, group: 32, d: f16(0), dmin: 2 },
    ...{ scales: sixBitPairs(4), planes: [nibbleHalves(256, 48, 32), bitRuns(16, 4)] },
  },
  Q6_K: {
    ...{ decode: 'affine', bits: 6, zero: 32, group: 16, d: f16(208) },
    ...{ scales: signedBytes(192), planes: [nibbleHalves(256, 0, 64), pairQuarters(128, 4)] },
  },
  Q8_K: {
    ...{ decode: 'affine', bits: 8, zero: 128, group: 256, d: { at: 0, dtype: 'F32' } },
    ...{ planes: [wholeBytes(256, 4)], offset: 128 },
  },
  IQ4_NL: { decode: 'levels', bits: 4, group: 32, d: f16(0), planes: [nibbleHalves(32, 2, 16)] },
  IQ4_XS: {
    ...{ decode: 'levels', bits: 4, group: 32, d: f16(0) },
    ...{ scales: splitSixBits(2, 4), planes: [nibbleHalves(256, 8, 16)] },
  },
  MXFP4: { decode: 'levels', bits: 4, group: 32, d: { at: 0, dtype: 'E8M0' }, planes: [nibbleHalves(32, 1, 16)] },
  TQ1_0: { decode: 'affine', bits: 2, zero: 1, group: 256, d: f16(52) },
  TQ2_0: { decode: 'affine', bits: 2, zero: 1, group: 256, d: f16(64), planes: [pairQuarters(0)] },
}

/** undefined for a type whose blocks we do not decode: whole numbers, activations, lattices of i-quants. */
export const layoutOf = (type: GgmlTypeName): BlockLayout | undefined => layouts[type]
