/** Reading GPTQ checkpoints, ours and others'. Shapes decide; the config must agree with them. */
import type { Bits, CodedLinear, Group, LinearScheme, TensorInfo, TensorLookup, TensorSource } from '../contracts.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { codesPerUnit, unpackLines } from './bits.ts'
import { declaredGptq, type GptqDeclaration } from './gptq-declared.ts'
import { isBits } from './gptq-layout.ts'
import { checkStored, damaged, none, partOf, readFloats, readWords, roleOf } from './stored.ts'
import { transpose } from './transpose.ts'

interface Parts<T extends TensorInfo> {
  readonly qweight: T
  readonly qzeros: T
  readonly scales: T
  /** Left out by some writers where group i holds inputs [i·g, (i + 1)·g). */
  readonly gIdx?: T
}

interface Geometry {
  readonly out: number
  readonly in: number
  readonly bits: Bits
  readonly groups: number
}

const partsOf = <T extends TensorInfo>(module: string, lookup: (name: string) => T | undefined): Parts<T> => {
  const part = (suffix: string): T => partOf(lookup, `${module}.${suffix}`, 'GPTQ')
  const parts = { qweight: part('qweight'), qzeros: part('qzeros'), scales: part('scales') }
  const gIdx = lookup(`${module}.g_idx`)
  checkStored(parts.qweight, ['I32'], [-1, -1], 'GPTQ')
  checkStored(parts.qzeros, ['I32'], [-1, -1], 'GPTQ')
  checkStored(parts.scales, ['F16', 'BF16', 'F32'], [-1, -1], 'GPTQ')
  if (gIdx) checkStored(gIdx, ['I32'], [-1], 'GPTQ')
  return { ...parts, gIdx }
}

/** [in·b/32, out], [G, out·b/32], [G, out], [in] have one solution; any other shapes are damage. */
const geometryOf = ({ qweight, qzeros, scales, gIdx }: Parts<TensorInfo>): Geometry => {
  const [groups, out] = scales.shape
  const bits = (qzeros.shape[1] * 32) / out
  if (!isBits(bits) || out % codesPerUnit(bits) !== 0 || qzeros.shape[0] !== groups)
    throw damaged(
      qzeros,
      `has shape [${qzeros.shape}], which no bit width gives for scales of [${scales.shape}]`,
      'GPTQ',
    )
  const inputs = (qweight.shape[0] * 32) / bits
  if (qweight.shape[1] !== out || inputs % codesPerUnit(bits) !== 0)
    throw damaged(qweight, `has shape [${qweight.shape}], which does not fit ${out} outputs of ${bits} bits`, 'GPTQ')
  if (groups > inputs) throw damaged(scales, `has ${groups} groups for ${inputs} inputs`, 'GPTQ')
  if (gIdx && gIdx.shape[0] !== inputs) throw damaged(gIdx, `has ${gIdx.shape[0]} entries for ${inputs} inputs`, 'GPTQ')
  return { out, in: inputs, bits, groups }
}

/** Inputs of a group; the last group may be shorter in other tools' checkpoints. */
const groupSizeOf = (scales: TensorInfo, { in: inputs, groups }: Geometry, declared?: GptqDeclaration): number => {
  const holds = (size: number): boolean => Math.ceil(inputs / size) === groups
  const size = declared?.groupSize === -1 ? inputs : declared?.groupSize
  if (size !== undefined && holds(size)) return size
  const even = Math.ceil(inputs / groups)
  if ((size === undefined || declared?.overrides) && holds(even)) return even
  throw damaged(
    scales,
    `has ${groups} groups for ${inputs} inputs, the config says group_size ${declared?.groupSize}`,
    'GPTQ',
  )
}

/** What a GPTQ linear is beyond its geometry. The source's dtype is not stored: its scales' is taken. */
const integerWeight = (module: string, { dtype }: TensorInfo) => ({
  role: roleOf(module),
  dtype: dtype as WeightDtype,
  grid: 'int' as const,
})

const schemeOf = (name: string, parts: Parts<TensorInfo>, declared: GptqDeclaration): LinearScheme => {
  const geometry = geometryOf(parts)
  if (geometry.bits !== declared.bits && !declared.overrides)
    throw damaged(parts.qzeros, `holds ${geometry.bits}-bit words, the config says bits ${declared.bits}`, 'GPTQ')
  const size = groupSizeOf(parts.scales, geometry, declared)
  const group: Group = geometry.groups === 1 ? 'channel' : size
  const actOrder = declared.descAct ? 'g_idx' : declared.staticGroups ? 'static' : 'none'
  return { ...integerWeight(name, parts.scales), name, ...geometry, symmetric: declared.symmetric, group, actOrder }
}

/**
 * Format.detect: every module that owns a `.qweight`, by shapes alone (patterns of `dynamic` are not run: they are foreign regular
 * expressions). One group an output is reported as `channel`.
 */
export const detectGptq = (
  tensors: ReadonlyMap<string, TensorInfo>,
  config: unknown,
  version: 1 | 2,
): ReadonlyMap<string, LinearScheme> | undefined => {
  const declared = declaredGptq(config)
  if (declared?.version !== version) return undefined
  const linears = new Map<string, LinearScheme>()
  for (const name of tensors.keys()) {
    if (!name.endsWith('.qweight')) continue
    const module = name.slice(0, -'.qweight'.length)
    const parts = partsOf(module, part => tensors.get(part))
    linears.set(module, schemeOf(module, parts, declared))
  }
  return linears
}

const words = (tensor: TensorSource): Uint32Array => readWords(tensor, 'GPTQ')

const readScales = (tensor: TensorSource, { out, groups }: Geometry): Float32Array => {
  const stored = readFloats(tensor, 'GPTQ')
  return transpose(stored, groups, out, new Float32Array(stored.length))
}

/**
 * Version 1 stores (z − 1) mod 2^b; the inverse is (field + 1) mod 2^b. An all-ones field (z = 0) is a trap that we never write: by
 * this rule it is 0, as in loaders that add and mask; those that do not mask see 2^b, and GPTQModel, which adds 1 to each field of a
 * 2-, 4- or 8-bit word in one integer addition, carries into the next output's zero point.
 */
const readZeros = (tensor: TensorSource, { out, bits, groups }: Geometry, version: 1 | 2): Float32Array => {
  const fields = unpackLines(words(tensor), groups, out, bits, false)
  const mask = (1 << bits) - 1
  if (version === 1) for (let i = 0; i < fields.length; i++) fields[i] = (fields[i] + 1) & mask
  return Float32Array.from(transpose(fields, groups, out, new Uint8Array(fields.length)))
}

const readGroups = (parts: Parts<TensorSource>, geometry: Geometry, declared?: GptqDeclaration): Int32Array => {
  const { gIdx, scales } = parts
  if (gIdx) {
    const groupOf = new Int32Array(words(gIdx))
    const wrong = groupOf.findIndex(group => group < 0 || group >= geometry.groups)
    if (wrong < 0) return groupOf
    throw damaged(gIdx, `says group ${groupOf[wrong]} for input ${wrong}, of ${geometry.groups} groups`, 'GPTQ')
  }
  if (declared?.descAct && geometry.groups > 1)
    throw damaged(scales, 'has no g_idx beside it, which desc_act: true needs', 'GPTQ')
  const size = groupSizeOf(scales, geometry, declared)
  return Int32Array.from({ length: geometry.in }, (_, input) => Math.floor(input / size))
}

/**
 * Format.unpack. The version is the config's, or `version` where the config declares no GPTQ; scales may also be BF16 or F32.
 * @throws QuantizeError bad-input naming the tensor or the config's field
 */
export const unpackGptq = (module: string, lookup: TensorLookup, config: unknown, version: 1 | 2): CodedLinear => {
  const declared = declaredGptq(config)
  const parts = partsOf(module, lookup)
  const geometry = geometryOf(parts)
  if (declared) schemeOf(module, parts, declared)
  const { out, in: inputs, bits } = geometry
  return {
    decode: 'affine',
    out,
    in: inputs,
    bits,
    groupOf: readGroups(parts, geometry, declared),
    scales: readScales(parts.scales, geometry),
    zeros: readZeros(parts.qzeros, geometry, declared?.version ?? version),
    codes: unpackLines(words(parts.qweight), out, inputs, bits, true),
    biases: none,
    levels: none,
  }
}
