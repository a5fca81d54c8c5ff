/** Blocks as a linear's codes and scales in effect, and back. */
import type { BlockLinear, CodedLinear } from '../contracts.ts'
import { e2m1Values } from '../dtype/small-floats.ts'
import { type BlockLayout, layoutOf } from './block-layouts.ts'
import { type GgmlBlocks, unpackBlocks, unpackParameters } from './blocks.ts'
import { type GgmlTypeName, ggmlTypes } from './types.ts'

/** kvalues_iq4nl of ggml-common.h. */
export const iq4Levels = Float32Array.of(...[-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])

const none = new Float32Array(0)

/** E2M1 as ggml has it, without −0. */
const mxfp4Levels = e2m1Values().map(value => value + 0)

const levelsOf = (type: GgmlTypeName): Float32Array => (type === 'MXFP4' ? mxfp4Levels : iq4Levels)

/** [sub-blocks]: a code times the float of its super-block, as ggml multiplies: rounded to float32. */
const products = (codes: Uint8Array | Int8Array, floats: Float32Array): Float32Array => {
  const each = codes.length / floats.length
  return Float32Array.from(codes, (code, i) => code * floats[Math.floor(i / each)])
}

/** −0 of 0, which leaves the sign of what it is added to. */
const negative = (values: Float32Array): Float32Array => values.map(value => -value)

/** Scales, and what is added, of each group. */
const parametersOf = (
  { decode, zero, scales }: BlockLayout,
  { d, dmin, scaleCodes, minCodes }: Omit<GgmlBlocks, 'codes'>,
) => {
  const found = scales ? products(scaleCodes, d) : d
  const biases = decode !== 'biased' ? none : scales ? negative(products(minCodes, dmin)) : dmin
  return { scales: found, biases, zeros: decode === 'affine' ? new Float32Array(found.length).fill(zero!) : none }
}

/**
 * A linear [out, in] of a type that `unpackBlocks` decodes; `dequantize` gives the floats that ggml's dequantize_row_* give, bit for bit.
 * @param blocks of whole rows: the block size divides `inputs`
 */
export const codedOf = (type: GgmlTypeName, blocks: GgmlBlocks, out: number, inputs: number): CodedLinear => {
  const layout = layoutOf(type)!
  const { decode, bits, group } = layout
  const { codes, d, dmin, scaleCodes, minCodes } = blocks
  return {
    decode,
    out,
    in: inputs,
    bits,
    codes,
    ...parametersOf(layout, blocks),
    levels: decode === 'levels' ? levelsOf(type) : none,
    groupOf: Int32Array.from({ length: inputs }, (_, column) => Math.floor(column / group)),
    ...(layout.scales ? { superBlocks: { d, dmin, scaleCodes, minCodes } } : {}),
  }
}

/** As decodedBlocks, without codes: for those who expand them from the blocks. */
export const blockParameters = ({ type, blocks, out, in: inputs }: BlockLinear): CodedLinear =>
  codedOf(type, { codes: new Uint8Array(0), ...unpackParameters(type, blocks) }, out, inputs)

/** Codes and scales of a linear that was read, or rounded, as blocks. @throws QuantizeError unsupported for a type that we do not decode */
export const decodedBlocks = ({ type, blocks, out, in: inputs }: BlockLinear): CodedLinear =>
  codedOf(type, unpackBlocks(type, blocks), out, inputs)

/** The inverse of `codedOf`. @throws Error for a k-quant without its super-blocks */
export const blocksOf = (type: GgmlTypeName, linear: CodedLinear): GgmlBlocks => {
  const { codes, scales, biases, superBlocks } = linear
  if (!layoutOf(type)!.scales) {
    const empty = new Uint8Array(0)
    return { codes, d: scales, dmin: biases, scaleCodes: empty, minCodes: empty }
  }
  if (!superBlocks) throw new Error(`${type} without super-blocks`)
  return { codes, ...superBlocks }
}

/** Bytes of a row of weights. */
export const rowBytes = (type: GgmlTypeName, inputs: number): number => {
  const { block, bytes } = ggmlTypes[type]
  return (inputs / block) * bytes
}
