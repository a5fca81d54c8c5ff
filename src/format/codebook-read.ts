/** Reading codebook checkpoints: the config says what each linear is, and its tensors must be exactly that. */
import type {
  CodedLinear,
  Configs,
  Decode,
  LinearScheme,
  TensorInfo,
  TensorLookup,
  TensorSource,
} from '../contracts.ts'
import { toFloat32 } from '../dtype/convert.ts'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'
import { unpackLines } from './bits.ts'
import { declaredCodebook } from './codebook-config.ts'
import { codebookParts, groupRunsOf, type PartName, partNames, storesGroups, toAllRows } from './codebook-layout.ts'
import { ownScaleDtype } from './grid-storage.ts'
import { scalesFrom } from './scale-bytes.ts'

type Parts<T> = Partial<Readonly<Record<PartName, T>>>

const damaged = (tensor: TensorInfo, problem: string): QuantizeError => {
  const file = 'file' in tensor ? `${printable(String(tensor.file))}: ` : ''
  return new QuantizeError('bad-input', `${file}${printable(tensor.name)} ${problem}; not a sound codebook checkpoint`)
}

const checkTensor = (found: TensorInfo, { dtype, shape, bytes }: TensorInfo): void => {
  if (found.dtype !== dtype) throw damaged(found, `is ${found.dtype}, expected ${dtype}`)
  if (found.shape.length !== shape.length || found.shape.some((size, i) => size !== shape[i]))
    throw damaged(found, `has shape [${found.shape}], the config says [${shape}]`)
  if (found.bytes !== bytes) throw damaged(found, `has ${found.bytes} bytes, its shape [${shape}] takes ${bytes}`)
}

const decodeOf = ({ grid }: LinearScheme, parts: Parts<TensorInfo>): Decode =>
  grid !== 'int' ? 'levels' : parts.biases ? 'biased' : 'affine'

/** Which tensors must be there. Zero points of a symmetric linear stand in the middle of the codes, unless stored. */
const required = (scheme: LinearScheme, decode: Decode): readonly PartName[] => [
  'codes',
  'scales',
  ...(decode === 'levels' ? (['levels'] as const) : []),
  ...(decode === 'affine' && !scheme.symmetric ? (['zeros'] as const) : []),
  ...(scheme.grid === 'nvfp4' ? (['global_scale'] as const) : []),
  ...(storesGroups(scheme) ? (['groups'] as const) : []),
]

const partsOf = <T extends TensorInfo>(scheme: LinearScheme, lookup: (name: string) => T | undefined): Parts<T> => {
  const expected = codebookParts(scheme)
  const parts: { [K in PartName]?: T } = {}
  for (const part of partNames) {
    const found = lookup(expected[part].name)
    if (!found) continue
    checkTensor(found, expected[part])
    parts[part] = found
  }
  for (const part of required(scheme, decodeOf(scheme, parts)))
    if (!parts[part]) throw damaged(expected[part], 'is missing')
  if (parts.zeros && parts.biases) throw damaged(parts.zeros, `stands beside ${printable(parts.biases.name)}`)
  return parts
}

/** Format.detect. */
export const detectCodebook = (
  tensors: ReadonlyMap<string, TensorInfo>,
  configs: Configs,
): ReadonlyMap<string, LinearScheme> | undefined => {
  const linears = declaredCodebook(configs)
  for (const scheme of linears?.values() ?? []) partsOf(scheme, name => tensors.get(name))
  return linears
}

const none = new Float32Array(0)

const readAll = (tensor: TensorSource): Uint8Array => {
  const bytes = tensor.read()
  if (bytes.byteLength !== tensor.bytes)
    throw damaged(tensor, `ends after ${bytes.byteLength} of ${tensor.bytes} bytes`)
  return bytes.byteOffset % 4 === 0 ? bytes : bytes.slice()
}

const finite = (values: Float32Array, tensor: TensorInfo): Float32Array => {
  if (values.every(Number.isFinite)) return values
  throw damaged(tensor, 'holds an infinite value or a NaN')
}

const readParameters = (tensor: TensorSource | undefined, scheme: LinearScheme): Float32Array =>
  tensor ? toAllRows(finite(toFloat32(readAll(tensor), 'F32'), tensor), scheme) : none

const readGlobal = (tensor: TensorSource | undefined): number | undefined => {
  if (!tensor) return undefined
  const [scale] = toFloat32(readAll(tensor), 'F32')
  if (scale > 0 && Number.isFinite(scale)) return scale
  throw damaged(tensor, `is ${scale}, expected a positive number`)
}

const readScales = (tensor: TensorSource, scheme: LinearScheme, global: number | undefined): Float32Array => {
  const stored = finite(scalesFrom(readAll(tensor), ownScaleDtype(scheme)), tensor)
  const scales =
    global === undefined
      ? stored
      : finite(
          stored.map(scale => scale / global),
          tensor,
        )
  return toAllRows(scales, scheme)
}

const readZeros = (tensor: TensorSource | undefined, scheme: LinearScheme): Float32Array =>
  tensor ? readParameters(tensor, scheme) : new Float32Array(scheme.out * scheme.groups).fill(1 << (scheme.bits - 1))

const readGroups = (tensor: TensorSource | undefined, scheme: LinearScheme): Int32Array => {
  if (!tensor) return groupRunsOf(scheme)
  const groupOf = new Int32Array(readAll(tensor).slice().buffer)
  const wrong = groupOf.findIndex(group => group < 0 || group >= scheme.groups)
  if (wrong < 0) return groupOf
  throw damaged(tensor, `says group ${groupOf[wrong]} for input ${wrong}, of ${scheme.groups} groups`)
}

const readCodes = (tensor: TensorSource, { out, in: inputs, bits }: LinearScheme): Uint8Array => {
  const bytes = readAll(tensor)
  return unpackLines(new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4), out, inputs, bits, false)
}

/** NaN where a code is not used. */
const readLevels = (tensor: TensorSource, codes: Uint8Array, codesTensor: TensorInfo): Float32Array => {
  const levels = toFloat32(readAll(tensor), 'F32')
  if (levels.some(level => Math.abs(level) === Number.POSITIVE_INFINITY))
    throw damaged(tensor, 'holds an infinite level')
  if (levels.some(Number.isNaN)) {
    const wrong = codes.findIndex(code => Number.isNaN(levels[code]))
    if (wrong >= 0) throw damaged(codesTensor, `holds code ${codes[wrong]}, which has no level`)
  }
  return levels
}

/**
 * Format.unpack.
 * @throws QuantizeError bad-input naming the tensor or the config's field
 */
export const unpackCodebook = (module: string, lookup: TensorLookup, configs: Configs): CodedLinear => {
  const scheme = declaredCodebook(configs)?.get(module)
  if (!scheme) throw new QuantizeError('bad-input', `${printable(module)}: the config declares no such codebook linear`)
  const parts = partsOf(scheme, lookup)
  const decode = decodeOf(scheme, parts)
  const codes = readCodes(parts.codes!, scheme)
  const globalScale = scheme.grid === 'nvfp4' ? readGlobal(parts.global_scale) : undefined
  return {
    decode,
    out: scheme.out,
    in: scheme.in,
    bits: scheme.bits,
    codes,
    scales: readScales(parts.scales!, scheme, globalScale),
    zeros: decode === 'affine' ? readZeros(parts.zeros, scheme) : none,
    biases: decode === 'biased' ? readParameters(parts.biases, scheme) : none,
    levels: decode === 'levels' ? readLevels(parts.levels!, codes, parts.codes!) : none,
    groupOf: readGroups(parts.groups, scheme),
    ...(globalScale === undefined ? {} : { globalScale }),
  }
}
