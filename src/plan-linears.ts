/** Which linears of a checkpoint are quantized, and each with which scheme: selection by glob, overrides, head and embedding, groups. */
import type {
  ActivationScheme,
  Bits,
  Checkpoint,
  Format,
  Group,
  Linear,
  LinearScheme,
  Model,
  TensorInfo,
  TypedScheme,
} from './contracts.ts'
import { type DecodedCheckpoint, isDecoded } from './decoded-checkpoint.ts'
import { isFloat } from './dtype/convert.ts'
import type { WeightDtype } from './dtype/dtype.ts'
import { QuantizeError } from './errors.ts'
import { moduleOf } from './format/stored.ts'
import { typeOfBits } from './gguf/scheme.ts'
import type { GgmlTypeName } from './gguf/types.ts'
import { matchesGlob } from './glob.ts'
import { gridPresets } from './method/grids.ts'
import { nearestName } from './nearest.ts'
import { divisorsOf } from './quantize/granularity.ts'
import { bitsOf, type Override, type Recipe } from './recipe.ts'

/** A linear that could be quantized. */
export interface Candidate {
  readonly linear: Linear
  readonly role: LinearScheme['role']
  /** Names of the linears that must have its scheme, itself among them; empty: none. */
  readonly shares: readonly string[]
}

/** Weights that convention leaves dense where only shapes are known: embeddings, heads, norms. */
const denseByName =
  /(^|[._])(embed\w*|wte|wpe|lm_head|head|norm\w*|ln_\w+|layernorm\w*|router|classifier|score)([._]|$)/i

/** Without an architecture: every two-dimensional float tensor called `….weight`, but embeddings, norms and heads. */
const linearsByShape = (tensors: ReadonlyMap<string, TensorInfo>): Linear[] =>
  [...tensors.values()]
    .filter(
      ({ name, shape, dtype }) =>
        name.endsWith('.weight') && shape.length === 2 && isFloat(dtype) && !denseByName.test(name),
    )
    .map(({ name, shape: [out, inputs] }) => ({
      name: name.slice(0, -'.weight'.length),
      weight: { tensor: name },
      out,
      in: inputs,
    }))

/** @throws QuantizeError bad-option where the format has no place for a quantized head or embedding that was asked for */
const besideBlocks = (model: Model, recipe: Recipe, format: Format): Candidate[] => {
  const { headBits, embedBits } = recipe
  const { embedding, head, hidden, vocabulary, tied } = model
  const typed = format.choose !== undefined // every weight has a type
  const cannot = (what: string, flag: string): never => {
    throw new QuantizeError(
      'bad-option',
      `--${flag}: format ${format.name} has no place for a quantized ${what}; leave it out`,
    )
  }
  if (embedBits !== null && !format.facts.embedding) cannot('embedding', 'embed-bits')
  if (headBits !== null && !format.facts.head) cannot('head', 'head-bits')
  const table = { name: moduleOf(embedding.tensor), weight: embedding, out: vocabulary, in: hidden }
  const shared = tied && (typed || embedBits !== null) // one weight serves both
  if (shared && headBits !== null && headBits !== embedBits && !(typed && embedBits === null))
    throw new QuantizeError(
      'bad-option',
      `--head-bits ${headBits}: the head is the embedding, which has ${embedBits} bits; --embed-bits sets both`,
    )
  return [
    ...(typed || embedBits !== null ? [{ linear: table, role: 'embedding' as const, shares: [] }] : []),
    ...((typed || headBits !== null) && !shared ? [{ linear: head, role: 'head' as const, shares: [] }] : []),
  ]
}

/** All that is quantized in the source. */
const storedLinears = (model: Model | undefined, { schemes }: DecodedCheckpoint): Candidate[] => {
  const stages = model?.blocks.flatMap(block => block.stages) ?? []
  const sharing = new Map(
    stages.flatMap(({ linears, share }) =>
      linears.map(({ name }) => [name, share ? linears.map(linear => linear.name) : []] as const),
    ),
  )
  return [...schemes.values()].map(({ name, role, out, in: inputs }) => ({
    linear: { name, weight: { tensor: `${name}.weight` }, out, in: inputs },
    role,
    shares: sharing.get(name) ?? [],
  }))
}

/** All linears that the recipe may choose from. */
export const candidatesOf = (
  model: Model | undefined,
  checkpoint: Checkpoint,
  recipe: Recipe,
  format: Format,
): readonly Candidate[] => {
  if (recipe.method === 'convert' && isDecoded(checkpoint)) return storedLinears(model, checkpoint)
  if (recipe.method === 'convert' && !format.choose) return [] // values of a dtype: no weight is quantized
  if (!model) return linearsByShape(checkpoint.tensors).map(linear => ({ linear, role: 'linear', shares: [] }))
  const stages = model.blocks.flatMap(block => block.stages)
  const ofBlocks = stages.flatMap(({ linears, share }) =>
    linears.map(linear => ({ linear, role: 'linear' as const, shares: share ? linears.map(({ name }) => name) : [] })),
  )
  return [...ofBlocks, ...besideBlocks(model, recipe, format)]
}

/** Why a conversion decodes a head or an embedding; undefined when the format holds it as it is. */
export const decodedBeside = ({ role }: Candidate, { method }: Recipe, { name, facts }: Format): string | undefined =>
  method !== 'convert' || role === 'linear' || facts.dense || facts[role]
    ? undefined
    : `decoded: format ${name} has no place for a quantized ${role}`

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

/** Why the globs leave a linear dense; undefined when they do not. */
export const leftOut = (name: string, { include, exclude }: Recipe): string | undefined => {
  const excluded = exclude.find(glob => matchesGlob(glob, name))
  if (excluded !== undefined) return `--exclude ${excluded}`
  return include.length > 0 && !include.some(glob => matchesGlob(glob, name)) ? 'not named by --include' : undefined
}

/** A hint: the module name, or a part of one, that a pattern most likely meant. */
const nearestTo = (glob: string, names: readonly string[]): string => {
  const word = glob.replaceAll(/[*?]/g, '').split('.').filter(Boolean).at(-1) ?? ''
  const parts = [...new Set(names.flatMap(name => name.split('.')))]
  const nearest = nearestName(glob, names) ?? nearestName(word, parts)
  if (nearest !== undefined && nearest !== word) return `the nearest name is ${nearest}`
  return `the first is ${names[0] ?? 'not there'}`
}

/** @throws QuantizeError bad-option for a glob that matches no linear: a misspelt one would be without effect */
export const checkGlobs = ({ include, exclude, overrides }: Recipe, candidates: readonly Candidate[]): void => {
  const globs = [
    ...include.map(glob => ['include', glob]),
    ...exclude.map(glob => ['exclude', glob]),
    ...overrides.map(({ glob }) => ['override', glob]),
  ]
  for (const [flag, glob] of globs)
    if (!candidates.some(({ linear }) => matchesGlob(glob, linear.name)))
      throw new QuantizeError(
        'bad-option',
        `--${flag} ${glob}: matches no linear of the model; ${nearestTo(
          glob,
          candidates.map(({ linear }) => linear.name),
        )}`,
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
  { activations, activationScales, symmetric }: Pick<Recipe, 'activations' | 'activationScales' | 'symmetric'>,
  group: Group,
): ActivationScheme | undefined =>
  activations === null
    ? undefined
    : {
        grid: activations,
        symmetric: activations === 'int8' ? symmetric : true,
        granularity: group === 'block' ? 128 : activationScales === 'dynamic' ? 'token' : 'tensor',
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

/** What linears that a runtime fuses must agree on, in words. */
export const sharedPart = ({ grid, bits, symmetric, group }: LinearScheme): string =>
  `${bits} bits, grid ${grid}, ${symmetric ? 'symmetric' : 'asymmetric'}, group ${group}`

/** Why a linear cannot have its scheme beside those with which a runtime fuses it; undefined when it can. */
export const fusionRefusal = (
  { linear, shares }: Candidate,
  schemes: ReadonlyMap<string, LinearScheme | undefined>,
): string | undefined => {
  const own = schemes.get(linear.name)!
  for (const name of shares) {
    const other = schemes.get(name)
    if (!other) return `runtimes fuse it with ${name}, which stays unquantized; both must be quantized, or neither`
    if (sharedPart(other) !== sharedPart(own))
      return `runtimes fuse it with ${name}, and the schemes differ (${sharedPart(own)} against ${sharedPart(other)}); give both the same`
  }
  return undefined
}
