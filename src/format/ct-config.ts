/** The `quantization_config` of compressed-tensors: groups of modules with one scheme each (compressed_tensors/quantization/quant_args.py). */
import type { ActivationScheme, AssembleFacts, Configs, LinearScheme } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { isObject } from '../io/is-object.ts'
import { printable } from '../io/printable.ts'
import {
  declaredFields,
  type Fields,
  fieldOf,
  flagOf,
  jsonText,
  malformed,
  objectOf,
  shownValue,
  wholeOf,
  wordOf,
} from './config-fields.ts'
import { type Kind, kindOf } from './ct-kinds.ts'
import { fusedOf } from './fused.ts'

type Json = Readonly<Record<string, unknown>>

/** Every key that the loader knows: it refuses others. */
const args = (given: Json): Json => ({
  num_bits: 8,
  type: 'int',
  symmetric: true,
  strategy: 'channel',
  group_size: null,
  block_structure: null,
  dynamic: false,
  actorder: null,
  scale_dtype: null,
  zp_dtype: null,
  observer: null,
  observer_kwargs: {},
  ...given,
})

const weightArgs = (scheme: LinearScheme): Json => {
  const { bits, symmetric, group, grid, actOrder } = scheme
  const type = grid === 'int' ? 'int' : 'float'
  const common = { num_bits: bits, type, symmetric, observer: 'memoryless_minmax' }
  if (grid === 'nvfp4')
    return args({ ...common, strategy: 'tensor_group', group_size: group, scale_dtype: 'torch.float8_e4m3fn' })
  if (grid === 'mxfp4' || grid === 'mxfp8')
    return args({ ...common, strategy: 'group', group_size: group, scale_dtype: 'torch.uint8' })
  const zeros = symmetric ? {} : { zp_dtype: 'torch.int8' }
  if (group === 'block') return args({ ...common, strategy: 'block', block_structure: [128, 128] })
  if (typeof group !== 'number') return args({ ...common, ...zeros, strategy: group })
  const order = actOrder === 'g_idx' && scheme.groups > 1 ? { actorder: 'group' } : {}
  return args({ ...common, ...zeros, ...order, strategy: 'group', group_size: group })
}

const inputArgs = ({ grid, symmetric, granularity, dynamic }: ActivationScheme): Json =>
  args({
    num_bits: 8,
    type: grid === 'fp8' ? 'float' : 'int',
    symmetric,
    dynamic,
    ...(typeof granularity === 'number' ? { strategy: 'group', group_size: granularity } : { strategy: granularity }),
    ...(dynamic ? {} : { observer: 'static_minmax' }),
  })

/** Schemes that differ, each with its modules. */
const groupsOf = (
  linears: readonly LinearScheme[],
): { readonly group: Json; readonly names: string[]; readonly kind: Kind }[] => {
  const groups = new Map<string, { group: Json; names: string[]; kind: Kind }>()
  for (const scheme of linears) {
    const { activations, name } = scheme
    const group = {
      weights: weightArgs(scheme),
      input_activations: activations ? inputArgs(activations) : null,
      output_activations: null,
      format: kindOf(scheme),
    }
    const key = JSON.stringify(group)
    if (!groups.has(key)) groups.set(key, { group, names: [], kind: kindOf(scheme) })
    groups.get(key)!.names.push(name)
  }
  return [...groups.values()]
}

export const ctConfig = (
  sourceConfig: Json | undefined,
  { linears, kept }: AssembleFacts,
): ReadonlyMap<string, string> => {
  const groups = groupsOf(linears)
  const kinds = new Set(groups.map(({ kind }) => kind))
  const targets = (names: readonly string[]): readonly string[] =>
    groups.length === 1 ? ['Linear'] : [...names, ...fusedOf(names)]
  const quantization = {
    quant_method: 'compressed-tensors',
    format: kinds.size === 1 ? [...kinds][0] : 'mixed-precision',
    quantization_status: 'compressed',
    config_groups: Object.fromEntries(
      groups.map(({ group, names }, i) => [`group_${i}`, { targets: targets(names), ...group }]),
    ),
    ignore: [...(linears.some(({ role }) => role === 'head') ? [] : ['lm_head']), ...kept, ...fusedOf(kept)],
    kv_cache_scheme: null,
    global_compression_ratio: null,
    sparsity_config: {},
    transform_config: {},
    version: '0.15.0',
  }
  if (!sourceConfig) return new Map([['quantize_config.json', jsonText(quantization)]])
  return new Map([['config.json', jsonText({ ...sourceConfig, quantization_config: quantization })]])
}

/** What a group says of its modules. */
export interface DeclaredGroup {
  readonly targets: readonly string[]
  readonly weights: DeclaredArgs
  readonly input: DeclaredArgs | undefined
}

export interface DeclaredArgs {
  readonly bits: number
  readonly type: 'int' | 'float'
  readonly symmetric: boolean
  readonly strategy: string
  readonly groupSize: number | undefined
  readonly dynamic: boolean
  readonly actOrder: boolean
  /** The dtype of scales, where it is not that of the values. */
  readonly scaleDtype: string | undefined
}

const readArgs = (fields: Fields, where: string): DeclaredArgs => {
  const type = wordOf(fields, 'type') ?? 'int'
  if (type !== 'int' && type !== 'float') throw malformed(`${where}.type`, type, 'int or float')
  const groupSize = wholeOf(fields, 'group_size', -1, 2 ** 31)
  const otherwise = groupSize === undefined ? 'tensor' : groupSize > 0 ? 'group' : 'channel'
  const dynamic = fieldOf(fields, 'dynamic') ?? false
  if (typeof dynamic !== 'boolean' && dynamic !== 'local')
    throw malformed(`${where}.dynamic`, dynamic, 'true, false or "local"')
  const actOrder = fieldOf(fields, 'actorder') ?? 'static'
  return {
    bits: wholeOf(fields, 'num_bits', 1, 16) ?? 8,
    type,
    symmetric: flagOf(fields, 'symmetric', true),
    strategy: wordOf(fields, 'strategy')?.toLowerCase() ?? otherwise,
    groupSize: groupSize !== undefined && groupSize > 0 ? groupSize : undefined,
    dynamic: dynamic !== false,
    actOrder: actOrder === 'group' || actOrder === true,
    scaleDtype: wordOf(fields, 'scale_dtype'),
  }
}

const readGroup = (name: string, group: unknown): DeclaredGroup => {
  if (!isObject(group))
    throw new QuantizeError(
      'unsupported',
      `quantization config: group ${printable(name)} is ${shownValue(group)}: presets by name are not read; write its arguments`,
    )
  const targets = fieldOf(group, 'targets')
  if (!Array.isArray(targets) || !targets.every(target => typeof target === 'string'))
    throw malformed('targets', targets, 'a list of strings')
  const weights = objectOf(group, 'weights')
  if (!weights) throw malformed('weights', undefined, 'an object')
  const input = objectOf(group, 'input_activations')
  return { targets, weights: readArgs(weights, 'weights'), input: input && readArgs(input, 'input_activations') }
}

const isFilled = (value: unknown): boolean => isObject(value) && Object.keys(value).length > 0

/**
 * @returns the groups; undefined when the config declares another method
 * @throws QuantizeError bad-input for a malformed field, unsupported for rotations or sparsity
 */
export const declaredGroups = (configs: Configs): readonly DeclaredGroup[] | undefined => {
  const fields = declaredFields(configs, 'compressed-tensors')
  if (!fields) return undefined
  for (const name of ['transform_config', 'sparsity_config'])
    if (isFilled(fieldOf(fields, name)))
      throw new QuantizeError(
        'unsupported',
        `quantization config: ${name} is not empty; checkpoints with it are not read yet`,
      )
  return Object.entries(objectOf(fields, 'config_groups') ?? {}).map(([name, group]) => readGroup(name, group))
}

/**
 * The group of a module: by exact name, then by class. Patterns (`re:`) are foreign regular expressions and are not run: they count as a
 * match where nothing else does.
 */
export const groupOf = (
  groups: readonly DeclaredGroup[],
  module: string,
  fits: (group: DeclaredGroup) => boolean,
): DeclaredGroup => {
  const exact = groups.find(({ targets }) => targets.includes(module))
  if (exact) return exact
  const possible = groups
    .filter(({ targets }) => targets.some(target => target === 'Linear' || target.startsWith('re:')))
    .filter(fits)
  const [first, second] = possible
  if (!first) throw new QuantizeError('bad-input', `quantization config: no group fits ${printable(module)}`)
  if (second && JSON.stringify([first.weights, first.input]) !== JSON.stringify([second.weights, second.input]))
    throw new QuantizeError(
      'unsupported',
      `quantization config: several groups could be that of ${printable(module)}, whose targets are patterns`,
    )
  return first
}
