/** Reading AWQ checkpoints: the GEMM version and the older GEMV one (AutoAWQ, awq/modules/linear/gemv.py). */
import type { CodedLinear, Configs, LinearScheme, TensorInfo, TensorLookup, TensorSource } from '../contracts.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'
import { type DeclaredAwq, declaredAwq } from './awq-config.ts'
import { deinterleaved } from './awq-order.ts'
import { unpackLines } from './bits.ts'
import { malformed } from './config-fields.ts'
import { checkStored, damaged, groupRunsOf, none, partOf, readFloats, readWords, roleOf } from './stored.ts'
import { transpose } from './transpose.ts'

const called = 'AWQ'
const scaleDtypes = ['F16', 'BF16', 'F32'] as const

interface Geometry {
  readonly out: number
  readonly in: number
  readonly groups: number
}

interface Parts<T extends TensorInfo> {
  readonly qweight: T
  readonly qzeros: T
  readonly scales: T
}

const groupsOf = (qweight: TensorInfo, inputs: number, groupSize: number): number => {
  const size = groupSize === -1 ? inputs : groupSize
  if (inputs % size === 0) return inputs / size
  throw damaged(qweight, `has ${inputs} inputs, which the config's group_size ${groupSize} does not divide`, called)
}

/** qweight [in, out/8], qzeros [G, out/8], scales [G, out]. */
const gemmGeometry = ({ qweight, qzeros, scales }: Parts<TensorInfo>, { groupSize }: DeclaredAwq): Geometry => {
  const [inputs, words] = qweight.shape
  const groups = groupsOf(qweight, inputs, groupSize)
  checkStored(scales, scaleDtypes, [groups, words * 8], called)
  checkStored(qzeros, ['I32'], [groups, words], called)
  return { out: words * 8, in: inputs, groups }
}

/** Words of zero points that a row has: filled up so that a kernel's threads read whole ones. */
const gemvWidth = (inputs: number, groups: number): number => {
  const size = inputs / groups
  const multiple = size >= 128 ? 1 : size === 64 ? 2 : size === 32 ? 4 : undefined
  if (multiple === undefined) throw malformed('group_size', size, '32, 64, or at least 128 in version gemv')
  return Math.ceil(Math.ceil(groups / 8) / multiple) * multiple
}

/** qweight [out, in/8], qzeros [out, width], scales [out, 8 · width], of which the first G columns count. */
const gemvGeometry = ({ qweight, qzeros, scales }: Parts<TensorInfo>, { groupSize }: DeclaredAwq): Geometry => {
  const [out, words] = qweight.shape
  const inputs = words * 8
  const groups = groupsOf(qweight, inputs, groupSize)
  const width = gemvWidth(inputs, groups)
  checkStored(scales, scaleDtypes, [out, 8 * width], called)
  checkStored(qzeros, ['I32'], [out, width], called)
  return { out, in: inputs, groups }
}

const partsOf = <T extends TensorInfo>(
  name: string,
  lookup: (name: string) => T | undefined,
  declared: DeclaredAwq,
): Parts<T> & Geometry => {
  const [qweight, qzeros, scales] = ['qweight', 'qzeros', 'scales'].map(part =>
    partOf(lookup, `${name}.${part}`, called),
  )
  checkStored(qweight, ['I32'], [-1, -1], called)
  const parts = { qweight, qzeros, scales }
  const geometry = declared.version === 'gemm' ? gemmGeometry(parts, declared) : gemvGeometry(parts, declared)
  return { ...parts, ...geometry }
}

/** @throws QuantizeError as Format.detect */
export const detectAwq = (
  tensors: ReadonlyMap<string, TensorInfo>,
  configs: Configs,
): ReadonlyMap<string, LinearScheme> | undefined => {
  const declared = declaredAwq(configs)
  if (!declared) return undefined
  const schemeOf = (name: string): LinearScheme => {
    const { out, in: inputs, groups, scales } = partsOf(name, part => tensors.get(part), declared)
    return {
      name,
      role: roleOf(name),
      out,
      in: inputs,
      dtype: scales.dtype as WeightDtype, // the model's own is not stored
      grid: 'int',
      bits: 4,
      symmetric: declared.symmetric,
      group: declared.groupSize === -1 ? 'channel' : declared.groupSize,
      groups,
      actOrder: 'none',
    }
  }
  const names = [...tensors.keys()].filter(name => name.endsWith('.qweight'))
  return new Map(names.map(name => name.slice(0, -'.qweight'.length)).map(name => [name, schemeOf(name)]))
}

type Parameters = Pick<CodedLinear, 'codes' | 'zeros' | 'scales'>

const readGemm = ({ qweight, qzeros, scales, ...shape }: Parts<TensorSource> & Geometry): Parameters => {
  const { out, in: inputs, groups } = shape
  const codes = deinterleaved(unpackLines(readWords(qweight, called), inputs, out, 4, false))
  const zeros = deinterleaved(unpackLines(readWords(qzeros, called), groups, out, 4, false))
  return {
    codes: transpose(codes, inputs, out, new Uint8Array(codes.length)),
    zeros: Float32Array.from(transpose(zeros, groups, out, new Uint8Array(zeros.length))),
    scales: transpose(readFloats(scales, called), groups, out, new Float32Array(out * groups)),
  }
}

/** The first `groups` of each row of parameters. */
const unpadded = (values: Uint8Array | Float32Array, out: number, groups: number): Float32Array => {
  const width = values.length / out
  return Float32Array.from({ length: out * groups }, (_, i) => values[Math.floor(i / groups) * width + (i % groups)])
}

const readGemv = ({ qweight, qzeros, scales, ...shape }: Parts<TensorSource> & Geometry): Parameters => {
  const { out, in: inputs, groups } = shape
  const zeros = unpackLines(readWords(qzeros, called), out, 8 * qzeros.shape[1], 4, false)
  return {
    codes: unpackLines(readWords(qweight, called), out, inputs, 4, false),
    zeros: unpadded(zeros, out, groups),
    scales: unpadded(readFloats(scales, called), out, groups),
  }
}

/** @throws QuantizeError as Format.unpack */
export const unpackAwq = (name: string, tensors: TensorLookup, configs: Configs): CodedLinear => {
  const declared = declaredAwq(configs)
  if (!declared) throw new QuantizeError('bad-input', 'quantization config: quant_method is not awq')
  const parts = partsOf(name, tensors, declared)
  const { out, in: inputs, groups } = parts
  return {
    decode: 'affine',
    out,
    in: inputs,
    bits: 4,
    ...(declared.version === 'gemm' ? readGemm(parts) : readGemv(parts)),
    biases: none,
    levels: none,
    groupOf: groupRunsOf(inputs, inputs / groups),
  }
}
