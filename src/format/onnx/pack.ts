/** Codes, scales and zero points as MatMulNBits reads them, and back. */
import type { Bits, CodedLinear, LinearScheme, StoredTensor, TensorInfo, TensorLookup } from '../../contracts.ts'
import { fromFloat32 } from '../../dtype/convert.ts'
import type { WeightDtype } from '../../dtype/dtype.ts'
import { QuantizeError } from '../../errors.ts'
import { printable } from '../../io/printable.ts'
import { packLines, unpackLines, wordsFor } from '../bits.ts'
import { checkStored, damaged, none, readBytes, readFloats, roleOf } from '../stored.ts'
import {
  isSupportedBits,
  onnxLayout,
  partNames,
  scaleDtype,
  supportedBits,
  supportedGroups,
  zeroBytes,
} from './layout.ts'

/** Lines of codes, each padded to whole bytes. */
const packBytes = (codes: Uint8Array, lines: number, count: number, bits: Bits): Uint8Array => {
  const words = packLines(codes, lines, count, bits, false)
  const bytes = new Uint8Array(words.buffer)
  const [padded, wanted] = [4 * wordsFor(count, bits), zeroBytes(count, bits)]
  if (padded === wanted) return bytes
  const result = new Uint8Array(lines * wanted)
  for (let line = 0; line < lines; line++)
    result.set(bytes.subarray(line * padded, line * padded + wanted), line * wanted)
  return result
}

/** The inverse of packBytes. */
const unpackBytes = (bytes: Uint8Array, lines: number, count: number, bits: Bits): Uint8Array => {
  const [padded, stored] = [4 * wordsFor(count, bits), zeroBytes(count, bits)]
  const result = padded === stored ? new Uint8Array(bytes) : new Uint8Array(lines * padded)
  if (padded !== stored)
    for (let line = 0; line < lines; line++)
      result.set(bytes.subarray(line * stored, (line + 1) * stored), line * padded)
  return unpackLines(new Uint32Array(result.buffer), lines, count, bits, false)
}

/** Format.pack. Groups of neighbouring columns only. */
export const packOnnx = (scheme: LinearScheme, linear: CodedLinear): readonly StoredTensor[] => {
  const { out, in: inputs, bits, codes, scales, zeros, groupOf } = linear
  const groups = scales.length / out
  const size = inputs / groups
  if (groupOf.some((group, column) => group !== Math.floor(column / size))) throw new Error('groups out of order')
  if (scheme.symmetric && zeros.some(zero => zero !== 2 ** (bits - 1))) throw new Error('a zero point off the centre')
  const data = [
    packBytes(codes, out, inputs, bits),
    fromFloat32(scales, scaleDtype(scheme)),
    packBytes(Uint8Array.from(zeros), out, groups, bits),
  ]
  return onnxLayout({ ...scheme, groups }).map((tensor, index) => ({ ...tensor, data: data[index] }))
}

const called = 'MatMulNBits'

const sameShape = (tensor: TensorInfo, shape: readonly number[]): void => {
  if (tensor.shape.some((size, axis) => size !== shape[axis]))
    throw damaged(tensor, `has shape [${tensor.shape}], the codes want [${shape}]`, called)
}

interface Parts<T extends TensorInfo> {
  readonly bits: Bits
  readonly codes: T
  readonly scales: T
  readonly zeros?: T
}

/** @throws QuantizeError bad-input when a part is missing or does not fit the others */
const partsOf = <T extends TensorInfo>(module: string, lookup: (name: string) => T | undefined): Parts<T> => {
  const [bits, ...others] = supportedBits.filter(width => lookup(partNames(module, width).codes))
  if (bits === undefined || others.length > 0)
    throw new QuantizeError(
      'bad-input',
      `${printable(module)} has ${bits === undefined ? 'no codes' : 'codes of several widths'}; not a sound MatMulNBits weight`,
    )
  const names = partNames(module, bits)
  const codes = lookup(names.codes)!
  const scales = lookup(names.scales)
  const zeros = lookup(names.zeros)
  if (!scales) throw damaged(codes, 'has no scales beside it', called)
  checkStored(codes, ['U8'], [-1, -1, -1], called)
  checkStored(scales, ['F32', 'F16'], [-1, -1], called)
  const [out, groups, groupBytes] = codes.shape
  if (!supportedGroups.includes((groupBytes * 8) / bits))
    throw damaged(
      codes,
      `has ${groupBytes} bytes a group, which is none of ${supportedGroups.join(', ')} codes`,
      called,
    )
  sameShape(scales, [out, groups])
  if (zeros) {
    checkStored(zeros, ['U8'], [-1, -1], called)
    sameShape(zeros, [out, zeroBytes(groups, bits)])
  }
  return { bits, codes, scales, zeros }
}

const schemeOf = (module: string, { bits, codes, scales, zeros }: Parts<TensorInfo>): LinearScheme => {
  const [out, groups, groupBytes] = codes.shape
  const group = (groupBytes * 8) / bits
  return {
    name: module,
    role: roleOf(module),
    out,
    in: groups * group,
    dtype: scales.dtype as WeightDtype,
    grid: 'int',
    bits,
    symmetric: zeros === undefined,
    group,
    groups,
    actOrder: 'none',
  }
}

/** Format.detect: every module that owns `weight_Q<bits>`; undefined when there is none. */
export const detectOnnx = (tensors: ReadonlyMap<string, TensorInfo>): ReadonlyMap<string, LinearScheme> | undefined => {
  const linears = new Map<string, LinearScheme>()
  for (const name of tensors.keys()) {
    const [, module, bits] = /^(.+)\.weight_Q(\d+)$/.exec(name) ?? []
    if (module === undefined || !isSupportedBits(Number(bits))) continue
    linears.set(
      module,
      schemeOf(
        module,
        partsOf(module, part => tensors.get(part)),
      ),
    )
  }
  return linears.size > 0 ? linears : undefined
}

/** Format.unpack. @throws QuantizeError bad-input naming the tensor */
export const unpackOnnx = (module: string, lookup: TensorLookup): CodedLinear => {
  const parts = partsOf(module, lookup)
  const { out, in: inputs, bits, groups } = schemeOf(module, parts)
  const scales = readFloats(parts.scales, called)
  const zeros = parts.zeros
    ? Float32Array.from(unpackBytes(readBytes(parts.zeros, called), out, groups, bits))
    : new Float32Array(out * groups).fill(2 ** (bits - 1))
  const size = inputs / groups
  return {
    decode: 'affine',
    out,
    in: inputs,
    bits,
    codes: unpackBytes(readBytes(parts.codes, called), out, inputs, bits),
    scales,
    zeros,
    biases: none,
    levels: none,
    groupOf: Int32Array.from({ length: inputs }, (_, column) => Math.floor(column / size)),
  }
}
