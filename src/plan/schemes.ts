/** The scheme of one linear: grid, bits and group, from the recipe, its overrides and what the format says. */
import type {
  ActivationScheme,
  Bits,
  Checkpoint,
  Format,
  Group,
  Linear,
  LinearScheme,
  Model,
  TypedScheme,
} from '../contracts.ts'
import { type DecodedCheckpoint, isDecoded } from '../decoded-checkpoint.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'
import { typeOfBits } from '../gguf/scheme.ts'
import type { GgmlTypeName } from '../gguf/types.ts'
import { matchesGlob } from '../glob.ts'
import { gridPresets } from '../method/grids.ts'
import { divisorsOf } from '../quantize/granularity.ts'
import { bitsOf, type Override, type Recipe } from '../recipe.ts'
import type { Candidate } from './candidates.ts'

/** The types of a format that has them, by name. @throws QuantizeError as Format.choose; bad-option for bits that no type has */
export const typesFor = (
  candidates: readonly Candidate[],
  model: Model | undefined,
  { overrides, headBits, embedBits, calibration, imatrix }: Recipe,
  format: Format,
): ReadonlyMap<string, TypedScheme> | undefined => {
  const typeOf = (bits: Bits | null, flag: string, inputs: number): GgmlTypeName | undefined => {
    if (bits === null) return undefined
    const type = typeOfBits(bits, inputs)
    if (type) return type
    throw new QuantizeError(
      'bad-option',
      `--${flag} ${bits}: GGUF has no type of ${bits} bits; 2, 3, 4, 5, 6, 8 it has`,
    )
  }
  return format.choose?.(
    candidates.map(({ linear: { name, out, in: inputs }, role }) => {
      const over = overrides.findLast(({ glob, type }) => type && matchesGlob(glob, name))
      const beside =
        role === 'linear'
          ? undefined
          : role === 'head'
            ? typeOf(headBits, 'head-bits', inputs)
            : (typeOf(embedBits, 'embed-bits', inputs) ??
              (model?.tied ? typeOf(headBits, 'head-bits', inputs) : undefined))
      return { name, role, out, in: inputs, asked: over?.type ?? beside }
    }),
    model,
    calibration !== undefined || imatrix !== null,
  )
}

/** The group of one linear: what the format implies; under `--group-fallback` the largest divisor of its inputs not above the one asked. */
const groupFor = (linear: Linear, asked: Group | 'implied', bits: Bits, recipe: Recipe, format: Format): Group => {
  const implied = format.facts.impliedGroup?.(linear.in, bits, recipe.grid)
  if (implied !== undefined) {
    if (asked === 'implied' || asked === implied) return implied
    throw new QuantizeError(
      'unsupported',
      `${linear.name}: format ${format.name} takes the group from the number of inputs, ${implied} for ${linear.in}; leave --group out`,
    )
  }
  if (asked === 'implied') throw new Error(`format ${format.name} implies no group`)
  if (typeof asked !== 'number' || linear.in % asked === 0) return asked
  const divisors = divisorsOf(linear.in).filter(size => size > 1)
  const below = divisors.filter(size => size <= asked)
  if (recipe.groupFallback && below.length > 0) return below[below.length - 1]
  const near = divisors.filter(size => size >= 16 && size <= 4 * asked).slice(-8)
  throw new QuantizeError(
    'unsupported',
    `${linear.name}: groups of ${asked} do not divide its ${linear.in} inputs; use --group ${near.join(', ')} or channel, or --group-fallback for the largest that fits each linear`,
  )
}

/** Groups that hold the same scales as `group`, repeated. */
const finerGroups = (group: Group, inputs: number): readonly Group[] => {
  const whole = group === 'channel' || group === 'tensor' ? inputs : group === 'block' ? 128 : group
  return [128, 64, 32, 16].filter(size => inputs % size === 0 && size < whole && whole % size === 0)
}

/** The scheme of a type. */
const typedScheme = (scheme: LinearScheme, { type, grid, bits, symmetric, group }: TypedScheme): LinearScheme => ({
  ...scheme,
  ...{ type, grid, bits, symmetric, group },
  groups: groupsAlong(group, scheme.in),
  activations: undefined,
})

/** The scheme that a linear of a quantized source keeps: groups are cut where the format wants smaller ones. */
const keptScheme = (stored: LinearScheme, format: Format, from: Format): LinearScheme => {
  const { type: _, ...scheme } = stored // of another format
  const { in: inputs, bits, grid } = scheme
  const biased = format.facts.anyStorage && from.storage(stored).decode === 'biased'
  const implied = format.facts.impliedGroup?.(inputs, bits, grid)
  const activations = format.facts.activations ? scheme.activations : undefined
  const withGroup = (group: Group): LinearScheme => ({
    ...scheme,
    ...(biased ? { biased } : {}),
    activations,
    group,
    groups: groupsAlong(group, inputs),
  })
  if (implied !== undefined) return withGroup(implied)
  const options = [scheme.group, ...(scheme.group === 'tensor' ? ['channel' as const] : [])]
  const all = [...options, ...finerGroups(scheme.group, inputs)].map(withGroup)
  return all.find(candidate => format.refuses(candidate) === undefined) ?? all[0]
}

/** Groups along the inputs; of a group that does not divide them (blocks over the flattened weight) about as many. */
const groupsAlong = (group: Group, inputs: number): number =>
  Math.ceil(inputs / (typeof group === 'number' ? group : group === 'block' ? 128 : inputs))

/** What a recipe declares of inputs. */
export const activationScheme = (
  { activations, activationScales }: Pick<Recipe, 'activations' | 'activationScales'>,
  group: Group,
): ActivationScheme | undefined =>
  activations === null
    ? undefined
    : {
        ...activations,
        granularity: group === 'block' ? 128 : activationScales === 'dynamic' ? activations.granularity : 'tensor',
        dynamic: activationScales === 'dynamic',
      }

/** @throws QuantizeError unsupported: a group that does not divide, bad-option: bits that the grid does not have */
export const schemeOf = (
  { linear, role }: Candidate,
  recipe: Recipe,
  format: Format,
  checkpoint: Checkpoint,
  typed?: TypedScheme,
): LinearScheme => {
  const { name, out, in: inputs, weight } = linear
  const stored = isDecoded(checkpoint) ? checkpoint.schemes.get(name) : undefined
  if (typed) {
    const dtype = stored?.dtype ?? (checkpoint.tensors.get(weight.tensor)!.dtype as WeightDtype)
    const { actOrder } = recipe
    return typedScheme({ name, role, out, in: inputs, dtype, actOrder, groups: 1, ...typed }, typed)
  }
  if (recipe.method === 'convert') return keptScheme(stored!, format, (checkpoint as DecodedCheckpoint).format)
  const over: Partial<Override> = Object.assign({}, ...recipe.overrides.filter(({ glob }) => matchesGlob(glob, name)))
  const grid = over.grid ?? recipe.grid
  const beside = role === 'head' ? recipe.headBits : role === 'embedding' ? recipe.embedBits : null
  const bits = bitsOf(grid, over.bits ?? (grid === 'int' ? (beside ?? undefined) : undefined), recipe.bits)
  const otherGrid = over.grid === undefined ? undefined : gridPresets[over.grid].group
  const group = groupFor(linear, over.group ?? otherGrid ?? recipe.group, bits, { ...recipe, grid }, format)
  return {
    name,
    role,
    out,
    in: inputs,
    dtype: recipe.restDtype ?? stored?.dtype ?? (checkpoint.tensors.get(weight.tensor)!.dtype as WeightDtype), // others are refused before it matters
    grid,
    bits,
    symmetric: grid === 'int' ? (over.symmetric ?? recipe.symmetric) : true,
    group,
    groups: groupsAlong(group, inputs),
    actOrder: recipe.actOrder,
    ...(role === 'linear' && recipe.activations ? { activations: activationScheme(recipe, group) } : {}),
  }
}
