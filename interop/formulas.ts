/**
 * Bits of a linear by the formula of each format, from shapes alone: the report is not asked.
 * out, in: a linear's shape; g: group; G = ceil(in / g); S: width of a scale.
 */

export interface Scheme {
  readonly format: string
  readonly grid: string
  readonly bits: number
  readonly group: number | string
  readonly symmetric: boolean
  /** The order of columns is stored with the codes. */
  readonly ordered?: boolean
  /** Scales are quantized themselves. */
  readonly nested?: boolean
}

interface Shape {
  readonly out: number
  readonly in: number
}

const groupsOf = ({ group }: Scheme, { in: inputs }: Shape): number =>
  typeof group === 'number' ? Math.ceil(inputs / group) : 1

/** Rows of packed words. */
const words = (codes: number, bits: number): number => 32 * Math.ceil((codes * bits) / 32)

/** GPTQ: b + (16 + b)/g + 32/out. */
const gptq = (scheme: Scheme, shape: Shape): number =>
  shape.out * shape.in * scheme.bits + groupsOf(scheme, shape) * shape.out * (16 + scheme.bits) + 32 * shape.in

/** AWQ: 4 + 20/g. */
const awq = (scheme: Scheme, shape: Shape): number =>
  4 * shape.out * shape.in + 20 * groupsOf(scheme, shape) * shape.out

/** compressed-tensors, integers: b + S/g, with packed zero points for asymmetric ones and an order where there are groups to order; 8 bits a code where activations are quantized. */
const packed = (scheme: Scheme, { out, in: inputs }: Shape, scale: number): number => {
  const groups = groupsOf(scheme, { out, in: inputs })
  const zeros = scheme.symmetric ? 0 : groups * words(out, scheme.bits)
  const order = scheme.ordered && groups > 1 ? 32 * inputs : 0
  return out * words(inputs, scheme.bits) + groups * out * scale + zeros + order
}

/** One scale for the tensor, for each row, or for each square of 128 × 128; 8 bits a code. */
const bytes = ({ group }: Scheme, { out, in: inputs }: Shape, scale: number): number => {
  const scales = group === 'tensor' ? 1 : group === 'block' ? Math.ceil(out / 128) * Math.ceil(inputs / 128) : out
  return 8 * out * inputs + scales * scale
}

/** MXFP4, NVFP4, MXFP8: b + 8/g. */
const microscaled = (scheme: Scheme, shape: Shape): number =>
  scheme.bits * shape.out * shape.in + 8 * shape.out * groupsOf(scheme, shape)

/** HQQ: rows of groups, in 1, 2, 4 or 8 bits; 3 bits ten to a word; b + 32/g. */
const hqq = ({ bits, group }: Scheme, { out, in: inputs }: Shape, scale: number): number => {
  const columns = typeof group === 'number' ? group : inputs
  const rows = Math.ceil((out * inputs) / columns)
  const width = bits > 4 ? 8 : bits
  const codes = bits === 3 ? 32 * Math.ceil(rows / 10) * columns : 8 * Math.ceil((rows * width) / 8) * columns
  return codes + 2 * scale * rows
}

/** bitsandbytes, 4 bits: 4 + 32/g; nested: 4 + 8/g + 32/(256 g); int8: 8 + 32/in. */
const bnb = ({ bits, group, nested }: Scheme, { out, in: inputs }: Shape): number => {
  if (bits === 8) return 8 * out * inputs + 32 * out
  const scales = Math.ceil((out * inputs) / (group as number))
  return 8 * Math.ceil((out * inputs) / 2) + (nested ? 8 * scales + 32 * Math.ceil(scales / 256) : 32 * scales)
}

/** The group that quanto derives: a row of at most 128 inputs, or the first of 128, 96, 64, 32 that divides them. */
const quantoGroup = (inputs: number): number =>
  inputs <= 128 ? inputs : ([128, 96, 64, 32].find(group => inputs % group === 0) ?? inputs)

/** quanto: b + 2 S/g for 2 and 4 bits, in bytes of whole rows; 8 + S/in. */
const quanto = (scheme: Scheme, shape: Shape, scale: number): number => {
  if (scheme.bits === 8) return 8 * shape.out * shape.in + shape.out * scale
  const columns = quantoGroup(shape.in)
  const rows = (shape.out * shape.in) / columns
  return 8 * Math.ceil((rows * scheme.bits) / 8) * columns + 2 * rows * scale
}

/** MLX: b + 2 S/g. */
const mlx = (scheme: Scheme, shape: Shape, scale: number): number =>
  scheme.bits * shape.out * shape.in + 2 * scale * shape.out * groupsOf(scheme, shape)

/** MatMulNBits: whole blocks; b + S/g, with zero points packed by rows for asymmetric ones. */
const onnx = (scheme: Scheme, { out, in: inputs }: Shape, scale: number): number => {
  const blocks = groupsOf(scheme, { out, in: inputs })
  const zeros = scheme.symmetric ? 0 : 8 * Math.ceil((blocks * scheme.bits) / 8)
  return out * (blocks * (scheme.group as number) * scheme.bits + blocks * scale + zeros)
}

/** codebook: b + 32/g, twice with zero points; rows in whole words. */
const codebook = (scheme: Scheme, { out, in: inputs }: Shape, scale: number): number => {
  const square = scheme.group === 'block' ? 128 : 1
  const rows = scheme.group === 'tensor' ? 1 : Math.ceil(out / square)
  const groups = scheme.group === 'block' ? Math.ceil(inputs / 128) : groupsOf(scheme, { out, in: inputs })
  const zeros = scheme.grid === 'int' && !scheme.symmetric ? 32 : 0
  const order = scheme.ordered && groups > 1 ? 32 * inputs : 0
  return out * words(inputs, scheme.bits) + rows * groups * (scale + zeros) + order
}

/** ggml: bits of a weight, by type (formats.md §5, of blocks of 32 and 256 weights). */
const ggmlBits: Readonly<Record<string, number>> = {
  ...{ Q4_0: 4.5, Q4_1: 5, Q5_0: 5.5, Q5_1: 6, Q8_0: 8.5, IQ4_NL: 4.5, IQ4_XS: 4.25, MXFP4: 4.25 },
  ...{ Q2_K: 2.625, Q3_K: 3.4375, Q4_K: 4.5, Q5_K: 5.5, Q6_K: 6.5625 },
}

/** Of a weight whose type the mix chose. */
export const typeBits = (type: string, { out, in: inputs }: Shape): number =>
  out * inputs * (ggmlBits[type] ?? Number.NaN)

/** Bits of a linear's codes, scales and zeros. `scale`: width of a stored scale, where the format leaves it open. */
export const formulaBits = (scheme: Scheme, shape: Shape, scale: number): number => {
  const family = scheme.format.split(':')[0]
  if (family === 'codebook') return codebook(scheme, shape, scale)
  if (/^(mx|nv)fp/.test(scheme.grid)) return microscaled(scheme, shape)
  if (family === 'gptq') return gptq(scheme, shape)
  if (family === 'awq') return awq(scheme, shape)
  if (family === 'hqq') return hqq(scheme, shape, scale)
  if (family === 'bnb') return bnb(scheme, shape)
  if (family === 'quanto') return quanto(scheme, shape, scale)
  if (family === 'mlx') return mlx(scheme, shape, scale)
  if (family === 'onnx') return onnx(scheme, shape, scale)
  if (scheme.grid !== 'int') return bytes(scheme, shape, scale)
  return packed(scheme, shape, scale)
}
