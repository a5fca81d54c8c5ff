/** `quantization` in config.json (mlx_lm/utils.py), and its copy `quantization_config`: one entry for all modules, with those that differ inside it. */
import type { AssembleFacts, Bits, Configs, LinearScheme } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { isObject } from '../io/is-object.ts'
import { type Fields, fieldOf, jsonText, malformed, shownValue, wordOf } from './config-fields.ts'
import { groupOf, isModeName, type MlxEntry, modeNames, modeOf, modes } from './mlx-modes.ts'

const modeIn = (fields: Fields) => {
  const mode = wordOf(fields, 'mode') ?? 'affine'
  if (isModeName(mode)) return mode
  throw new QuantizeError('unsupported', `MLX mode ${shownValue(mode)} cannot be read; ${modeNames.join(', ')} can`)
}

/** @throws QuantizeError bad-input for bits or a group that the mode does not have; unsupported for an unknown mode */
const entryOf = (fields: Fields): MlxEntry => {
  const mode = modeIn(fields)
  const { bits: allowedBits, groups, usual } = modes[mode]
  const bits = fieldOf(fields, 'bits') ?? usual.bits
  const group = fieldOf(fields, 'group_size') ?? usual.group
  if (!allowedBits.includes(bits as Bits)) throw malformed('bits', bits, `${allowedBits.join(', ')} of mode ${mode}`)
  if (!groups.includes(group as number)) throw malformed('group_size', group, `${groups.join(', ')} of mode ${mode}`)
  return { mode, bits: bits as Bits, group: group as number }
}

/** mlx-lm's config has no `quant_method`; other tools' `quantization` has other fields. */
const mlxFields = (configs: Configs): Fields | undefined => {
  const config = configs['config.json']
  if (!isObject(config)) return undefined
  return ['quantization', 'quantization_config']
    .map(name => fieldOf(config, name))
    .filter(isObject)
    .find(
      fields =>
        ['bits', 'group_size'].every(name => Object.hasOwn(fields, name)) && !Object.hasOwn(fields, 'quant_method'),
    )
}

/** How each module is stored, by its name; undefined when the config declares no MLX quantization. @throws QuantizeError as entryOf */
export const declaredMlx = (configs: Configs): ((module: string) => MlxEntry) | undefined => {
  const fields = mlxFields(configs)
  if (!fields) return undefined
  const usual = entryOf(fields)
  return module => {
    const own = fieldOf(fields, module)
    return isObject(own) ? entryOf(own) : usual
  }
}

/** mlx-lm reads a missing mode as affine; releases before 0.29 of mlx know no other, nor the field. */
const entryFields = (scheme: LinearScheme): Fields => {
  const mode = modeOf(scheme)!
  return { group_size: groupOf(scheme), bits: scheme.bits, ...(mode === 'affine' ? {} : { mode }) }
}

/** The entry of most linears stands for all; the first of equals. */
const usualEntry = (entries: readonly string[]): string => {
  const counts = new Map<string, number>()
  for (const entry of entries) counts.set(entry, (counts.get(entry) ?? 0) + 1)
  return [...counts].reduce((most, other) => (other[1] > most[1] ? other : most))[0]
}

const quantizationOf = (linears: readonly LinearScheme[]): Fields => {
  const entries = linears.map(linear => JSON.stringify(entryFields(linear)))
  const usual = usualEntry(entries)
  const differing = linears.filter((_, i) => entries[i] !== usual)
  return { ...JSON.parse(usual), ...Object.fromEntries(differing.map(linear => [linear.name, entryFields(linear)])) }
}

/** Format.assemble. A module without `.scales` stays plain: nothing says so here. */
export const assembleMlx = (
  sourceConfig: Fields | undefined,
  { linears }: AssembleFacts,
): ReadonlyMap<string, string> => {
  const quantization = quantizationOf(linears)
  return new Map([['config.json', jsonText({ ...sourceConfig, quantization, quantization_config: quantization })]])
}
