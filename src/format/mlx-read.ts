/** Reading MLX checkpoints: config.json says how a module is stored, its tensors must agree. */
import type { CodedLinear, Configs, LinearScheme, TensorInfo, TensorLookup, TensorSource } from '../contracts.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { e2m1Values, e4m3Values } from '../dtype/small-floats.ts'
import { QuantizeError } from '../errors.ts'
import { isObject } from '../io/is-object.ts'
import { printable } from '../io/printable.ts'
import { unpackLines, wordsFor } from './bits.ts'
import { fieldOf } from './config-fields.ts'
import { declaredMlx } from './mlx-config.ts'
import { type MlxEntry, modes } from './mlx-modes.ts'
import { scalesFrom } from './scale-bytes.ts'
import { checkStored, damaged, groupRunsOf, none, partOf, readBytes, readFloats, readWords, roleOf } from './stored.ts'

const called = 'MLX'
const floats = ['F16', 'BF16', 'F32'] as const

interface Parts<T extends TensorInfo> {
  readonly weight: T
  readonly scales: T
  /** Of mode affine. */
  readonly biases?: T
  readonly out: number
  readonly in: number
  readonly entry: MlxEntry
}

type Lookup<T extends TensorInfo> = (name: string) => T | undefined

const refuseOthers = (module: string, lookup: Lookup<TensorInfo>): void => {
  if (lookup(`${module}.global_scale`))
    throw new QuantizeError(
      'unsupported',
      `${printable(module)}.global_scale: scales under a global scale cannot be read`,
    )
  if ((lookup(`${module}.weight`)?.shape.length ?? 0) > 2)
    throw new QuantizeError('unsupported', `${printable(module)}.weight: experts stacked in one tensor cannot be read`)
}

const partsOf = <T extends TensorInfo>(module: string, lookup: Lookup<T>, entry: MlxEntry): Parts<T> => {
  refuseOthers(module, lookup)
  const { scale } = modes[entry.mode]
  const part = (name: string) => partOf(lookup, `${module}.${name}`, called)
  const [weight, scales] = [part('weight'), part('scales')]
  checkStored(scales, scale ? ['U8'] : floats, [-1, -1], called)
  const [out, groups] = scales.shape
  const inputs = groups * entry.group
  checkStored(weight, ['U32'], [out, wordsFor(inputs, entry.bits)], called)
  const parts = { weight, scales, out, in: inputs, entry }
  if (scale) return parts
  const biases = part('biases')
  checkStored(biases, [scales.dtype], [out, groups], called)
  return { ...parts, biases }
}

/** Where scales are bytes the config says what the model's dtype is. */
const dtypeOf = ({ dtype }: TensorInfo, configs: Configs): WeightDtype => {
  if (dtype !== 'U8') return dtype as WeightDtype
  const config = configs['config.json']
  const name = isObject(config) ? (fieldOf(config, 'dtype') ?? fieldOf(config, 'torch_dtype')) : undefined
  return name === 'float16' ? 'F16' : name === 'float32' ? 'F32' : 'BF16'
}

const schemeOf = (name: string, parts: Parts<TensorInfo>, configs: Configs): LinearScheme => {
  const { out, in: inputs, scales, entry } = parts
  return {
    name,
    role: roleOf(name),
    out,
    in: inputs,
    dtype: dtypeOf(scales, configs),
    grid: modes[entry.mode].grid,
    bits: entry.bits,
    symmetric: entry.mode !== 'affine',
    group: entry.group,
    groups: inputs / entry.group,
    actOrder: 'none',
  }
}

/**
 * Every module with `.scales`, as mlx-lm finds them.
 * @throws QuantizeError bad-input naming tensor or field; unsupported for an unknown mode, stacked experts, a global scale
 */
export const detectMlx = (
  tensors: ReadonlyMap<string, TensorInfo>,
  configs: Configs,
): ReadonlyMap<string, LinearScheme> | undefined => {
  const entryFor = declaredMlx(configs)
  if (!entryFor) return undefined
  const lookup: Lookup<TensorInfo> = name => tensors.get(name)
  const modules = [...tensors.keys()]
    .filter(name => name.endsWith('.scales'))
    .map(name => name.slice(0, -'.scales'.length))
  return new Map(modules.map(name => [name, schemeOf(name, partsOf(name, lookup, entryFor(name)), configs)]))
}

const readScales = ({ scales, entry }: Parts<TensorSource>): Float32Array => {
  const { scale } = modes[entry.mode]
  if (!scale) return readFloats(scales, called)
  const values = scalesFrom(readBytes(scales, called), scale)
  if (values.some(Number.isNaN)) throw damaged(scales, 'holds a NaN', called)
  return values
}

const readCodes = ({ weight, out, in: inputs, entry }: Parts<TensorSource>, levels: Float32Array): Uint8Array => {
  const codes = unpackLines(readWords(weight, called), out, inputs, entry.bits, false)
  if (entry.mode === 'mxfp8' && codes.some(code => Number.isNaN(levels[code])))
    throw damaged(weight, 'holds a NaN', called)
  return codes
}

/**
 * W = q · scale + bias, or level[q] · scale.
 * @throws QuantizeError as detectMlx; bad-input where the config declares no MLX quantization
 */
export const unpackMlx = (module: string, tensors: TensorLookup, configs: Configs): CodedLinear => {
  const entryFor = declaredMlx(configs)
  if (!entryFor) throw new QuantizeError('bad-input', 'config.json declares no MLX quantization')
  const parts = partsOf(module, tensors, entryFor(module))
  const { out, in: inputs, biases, entry } = parts
  const levels = biases ? none : entry.mode === 'mxfp8' ? e4m3Values() : e2m1Values()
  return {
    decode: biases ? 'biased' : 'levels',
    out,
    in: inputs,
    bits: entry.bits,
    codes: readCodes(parts, levels),
    scales: readScales(parts),
    zeros: none,
    biases: biases ? readFloats(biases, called) : none,
    levels,
    groupOf: groupRunsOf(inputs, entry.group),
  }
}
