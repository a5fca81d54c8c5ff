/** Reading HQQ checkpoints: each linear describes itself (hqq-meta.ts), its tensors must agree. */
import type {
  Bits,
  CodedLinear,
  DenseLinear,
  Group,
  LinearScheme,
  QuantizedLinear,
  TensorInfo,
  TensorLookup,
  TensorSource,
} from '../contracts.ts'
import { type Dtype, dtypeBits, type WeightDtype } from '../dtype/dtype.ts'
import { called, type HqqMeta, readMeta } from './hqq-meta.ts'
import { fillsWords } from './hqq-packing.ts'
import { chunkRows, unpackRowChunks } from './row-chunks.ts'
import { checkStored, damaged, groupRunsOf, none, partOf, readBytes, readFloats, readWords, roleOf } from './stored.ts'

interface Parts {
  readonly words: TensorSource
  readonly scale: TensorSource
  readonly zero: TensorSource
  readonly meta: HqqMeta
}

/** Groups, and the matrix that is packed: a group is a row of it (axis 1) or a column (axis 0). */
const gridOf = ({ out, in: inputs, group, axis }: HqqMeta) => {
  const groups = (out * inputs) / group
  return { groups, rows: axis === 1 ? groups : group, columns: axis === 1 ? group : groups }
}

/** `W_q` as it is declared: words, or the same bytes called floats. */
const checkWords = (words: TensorInfo, meta: HqqMeta): void => {
  const { packing, viewAsFloat } = meta
  const { rows, columns } = gridOf(meta)
  if (!fillsWords(rows, packing))
    throw damaged(words, `packs ${rows} rows, which do not fill words of ${packing.shifts.length}`, called)
  const dtypes: readonly Dtype[] = viewAsFloat ? ['F16', 'BF16', 'F32'] : [packing.word]
  const width = dtypes.includes(words.dtype) ? dtypeBits[packing.word] / dtypeBits[words.dtype] : 1
  checkStored(words, dtypes, [chunkRows(rows, packing.shifts), columns * width], called)
}

const partsOf = (module: string, tensors: TensorLookup): Parts => {
  const meta = readMeta(tensors, module)
  const { groups } = gridOf(meta)
  const part = (key: string) => partOf(tensors, `${module}.${key}`, called)
  const parts = { words: part('W_q'), scale: part('scale'), zero: part('zero'), meta }
  checkWords(parts.words, meta)
  for (const values of [parts.scale, parts.zero])
    checkStored(values, ['F16', 'BF16', 'F32'], meta.axis === 1 ? [groups, 1] : [1, groups], called)
  return parts
}

/** Of 1.58 bits and its like, those that hold the codes. */
const bitsOf = ({ packing, nbits }: HqqMeta): Bits => (packing.bits === 8 ? (nbits as Bits) : packing.bits)

const schemeOf = (name: string, { meta, scale }: Parts): LinearScheme => {
  const { out, in: inputs, group: size, axis, dtype } = meta
  const group: Group = axis === 1 && size === inputs ? 'channel' : size
  return {
    name,
    role: roleOf(name),
    out,
    in: inputs,
    dtype: dtype ?? (scale.dtype as WeightDtype),
    grid: 'int',
    bits: bitsOf(meta),
    symmetric: false,
    group,
    groups: Math.ceil(inputs / size),
    actOrder: 'none',
  }
}

/**
 * Every module with a `.W_q`. Shape, bits and group stand in small tensors, which are read; but for those no tensor data is.
 * @throws QuantizeError as readMeta
 */
export const hqqLinears = (tensors: ReadonlyMap<string, TensorSource>): ReadonlyMap<string, LinearScheme> => {
  const modules = [...tensors.keys()].filter(name => name.endsWith('.W_q')).map(name => name.slice(0, -'.W_q'.length))
  return new Map(
    modules.map(name => [
      name,
      schemeOf(
        name,
        partsOf(name, part => tensors.get(part)),
      ),
    ]),
  )
}

const readCodes = ({ words, meta }: Parts): Uint8Array => {
  const { packing, out, in: inputs } = meta
  const stored = packing.word === 'I32' ? readWords(words, called) : readBytes(words, called)
  const codes = unpackRowChunks(stored, packing.shifts, packing.bits, out * inputs)
  const most = 2 ** bitsOf(meta) - 1
  const wrong = codes.findIndex(code => code > most)
  if (wrong >= 0) throw damaged(words, `holds ${codes[wrong]}, more than ${bitsOf(meta)} bits`, called)
  return codes
}

/** As [out, in] where groups do not cross rows, else as the matrix of groups. */
const byRows = (codes: Uint8Array, scales: Float32Array, zeros: Float32Array, meta: HqqMeta): CodedLinear => {
  const { out, in: inputs, group } = meta
  const whole = inputs % group === 0
  const columns = whole ? inputs : group
  return {
    decode: 'affine',
    out: whole ? out : codes.length / group,
    in: columns,
    bits: bitsOf(meta),
    codes,
    scales,
    zeros,
    biases: none,
    levels: none,
    groupOf: groupRunsOf(columns, group),
  }
}

/** Groups down the columns of [group, n]: no group of input columns says that, so the values are given decoded. */
const byColumns = (codes: Uint8Array, scales: Float32Array, zeros: Float32Array, meta: HqqMeta): DenseLinear => {
  const { groups } = gridOf(meta)
  const values = Float32Array.from(codes, (code, i) => Math.fround(code - zeros[i % groups]) * scales[i % groups])
  return { decode: 'dense', out: meta.out, in: meta.in, values }
}

/**
 * W = (q − zero) · scale, zero points real. Groups along the flattened weight (`axis` 1) as codes, those down its columns (`axis` 0) dense.
 * @throws QuantizeError as readMeta
 */
export const unpackHqq = (module: string, tensors: TensorLookup): QuantizedLinear => {
  const parts = partsOf(module, tensors)
  const [scales, zeros] = [readFloats(parts.scale, called), readFloats(parts.zero, called)]
  return (parts.meta.axis === 1 ? byRows : byColumns)(readCodes(parts), scales, zeros, parts.meta)
}
