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
import { codebookParts, type PartName, partNames, schemeRuns, storesGroups, toAllRows } from './codebook-layout.ts'
import { ownScaleDtype } from './grid-storage.ts'
import { scalesFrom } from './scale-bytes.ts'
import { checkStored, damaged as damagedTensor, none, readBytes, readFloats, readWords } from './stored.ts'

type Parts<T> = Partial<Readonly<Record<PartName, T>>>

const damaged = (tensor: TensorInfo, problem: string): QuantizeError => damagedTensor(tensor, problem, 'codebook')

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
    checkStored(found, [expected[part].dtype], expected[part].shape, 'codebook')
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

const finite = (values: Float32Array, tensor: TensorInfo): Float32Array => {
  if (values.every(Number.isFinite)) return values
  throw damaged(tensor, 'holds an infinite value or a NaN')
}

const readParameters = (tensor: TensorSource | undefined, scheme: LinearScheme): Float32Array =>
  tensor ? toAllRows(readFloats(tensor, 'codebook'), scheme) : none

const readGlobal = (tensor: TensorSource | undefined): number | undefined => {
  if (!tensor) return undefined
  const [scale] = toFloat32(readBytes(tensor, 'codebook'), 'F32')
  if (scale > 0 && Number.isFinite(scale)) return scale
  throw damaged(tensor, `is ${scale}, expected a positive number`)
}

const readScales = (tensor: TensorSource, scheme: LinearScheme, global: number | undefined): Float32Array => {
  const stored = finite(scalesFrom(readBytes(tensor, 'codebook'), ownScaleDtype(scheme)), tensor)
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
  if (!tensor) return schemeRuns(scheme)
  const groupOf = new Int32Array(readWords(tensor, 'codebook'))
  const wrong = groupOf.findIndex(group => group < 0 || group >= scheme.groups)
  if (wrong < 0) return groupOf
  throw damaged(tensor, `says group ${groupOf[wrong]} for input ${wrong}, of ${scheme.groups} groups`)
}

const readCodes = (tensor: TensorSource, { out, in: inputs, bits }: LinearScheme): Uint8Array =>
  unpackLines(readWords(tensor, 'codebook'), out, inputs, bits, false)

/** NaN where a code is not used. */
const readLevels = (tensor: TensorSource, codes: Uint8Array, codesTensor: TensorInfo): Float32Array => {
  const levels = toFloat32(readBytes(tensor, 'codebook'), 'F32')
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
