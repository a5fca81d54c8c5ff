/**
 * Options + checkpoint header → Plan, plain data: linear by linear what will be done and stored. `--dry-run` prints it.
 * Every refusal that can be known from headers happens here, before a weight is read.
 */
import type {
  Checkpoint,
  Format,
  Linear,
  LinearScheme,
  Model,
  Storage,
  TensorInfo,
  TypedScheme,
  WeightView,
} from './contracts.ts'
import { isDecoded } from './decoded-checkpoint.ts'
import { isFloat, isWeightDtype } from './dtype/convert.ts'
import { dtypeBits, type WeightDtype } from './dtype/dtype.ts'
import { QuantizeError } from './errors.ts'
import { formatNamed } from './format/index.ts'
import { matchesGlob } from './glob.ts'
import { dataFreeMethods } from './method/index.ts'
import {
  type Candidate,
  candidatesOf,
  checkGlobs,
  decodedBeside,
  fusionRefusal,
  leftOut,
  schemeOf,
  sharedPart,
  typesFor,
} from './plan-linears.ts'
import type { Recipe } from './recipe.ts'

/** One linear that will be quantized. */
export interface PlannedLinear {
  readonly name: string
  readonly weight: WeightView
  readonly scheme: LinearScheme
  readonly storage: Storage
  /** Linears under whose common largest weight its scales stand (Storage.second `global`), itself among them; empty: it stands alone. */
  readonly sharedWith: readonly string[]
  /** What it becomes in the output. */
  readonly tensors: readonly TensorInfo[]
  /** Its bias in the output, where the run corrects it. */
  readonly bias?: TensorInfo
}

export interface KeptLinear {
  readonly name: string
  readonly weight: WeightView
  readonly reason: string
  /** What its values are rounded to; absent: as any tensor that stays unquantized. */
  readonly dtype?: WeightDtype
}

export interface PassedTensor {
  readonly name: string
  readonly reason: string
  /** In the output: of another dtype, where the format or --dtype wants one. */
  readonly stored: TensorInfo
  /** Of a bias that the run corrects: its linear. */
  readonly correctedWith?: string
}

export interface Plan {
  readonly recipe: Recipe
  readonly format: Format
  /** undefined: quantized by tensor shape, without an architecture. */
  readonly model?: Model
  readonly linears: readonly PlannedLinear[]
  /** Linears of the model's blocks that the format cannot hold, under `--unfit keep`. */
  readonly kept: readonly KeptLinear[]
  /** Source tensors that go into the output unquantized, and why. */
  readonly passed: readonly PassedTensor[]
  /** Source tensors that have no place in the output and need none, and why. */
  readonly dropped: readonly { readonly name: string; readonly reason: string }[]
  /** All tensors of the output, in the source's order. */
  readonly outputs: readonly TensorInfo[]
  /** The head becomes a weight of its own, where the source shares the embedding's. */
  readonly untied: boolean
  readonly warnings: readonly string[]
  readonly totals: PlanTotals
}

export interface PlanTotals {
  /** Elements of all tensors of the source. */
  readonly weights: number
  /** Weights that are quantized, and what they take in the output, in bits a weight: codes, scales, zeros, indexes. */
  readonly quantizedWeights: number
  readonly bitsPerWeight: number
  /** Bits of all tensor data in the output for each weight of the source. */
  readonly bitsPerWeightOverall: number
  /** Tensor data, in bytes. */
  readonly bytesBefore: number
  readonly bytesAfter: number
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)
const elements = (tensor: TensorInfo): number => tensor.shape.reduce((product, size) => product * size, 1)

/** Why a linear stays dense; undefined when it is quantized. */
const refusal = (
  { weight }: Linear,
  scheme: LinearScheme,
  format: Format,
  tensors: ReadonlyMap<string, TensorInfo>,
): string | undefined => {
  if (weight.rows || weight.transpose)
    return `its weight is a part of ${weight.tensor}, which format ${format.name} cannot hold`
  const { dtype } = tensors.get(weight.tensor)!
  if (!isWeightDtype(dtype)) return `its weight is ${dtype}; F32, F16 and BF16 can be quantized`
  if (scheme.activations && !format.facts.activations)
    return `format ${format.name} cannot declare quantized activations; leave --activations out, or use compressed-tensors`
  return format.refuses(scheme)
}

const passedReason = (model: Model | undefined): string =>
  model
    ? 'stored as it was: not the weight of a linear in a block'
    : 'stored as it was: not a two-dimensional weight, or an embedding, norm or head by its name'

const correctedReason = 'corrected for the error of the weights beside it (--bias-correction)'

/** Names of the biases of linears, by those of the linears. @throws QuantizeError bad-option when there are none */
const biasesOf = (linears: readonly PlannedLinear[], { blocks }: Model): ReadonlyMap<string, string> => {
  const planned = new Set(linears.map(({ name }) => name))
  const inBlocks = blocks.flatMap(({ stages }) => stages).flatMap(stage => stage.linears)
  const biases = new Map(
    inBlocks.flatMap(({ name, bias }) => (bias && planned.has(name) ? [[name, bias.tensor] as const] : [])),
  )
  if (biases.size > 0) return biases
  throw new QuantizeError('bad-option', '--bias-correction: no linear that is quantized has a bias; leave it out')
}

/** @param bias as the output stores it @throws QuantizeError unsupported for a dtype to which none is rounded */
const withBias = (linear: PlannedLinear, bias: TensorInfo): PlannedLinear => {
  const { name, dtype } = bias
  if (isWeightDtype(dtype)) return { ...linear, bias }
  throw new QuantizeError(
    'unsupported',
    `${name} would be stored as ${dtype}; --bias-correction stores F32, F16 or BF16: give --dtype`,
  )
}

const plural = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? '' : 's'}`

/**
 * @param model the architecture; or why there is none, to go by tensor shape (data-free methods only)
 * @throws QuantizeError unsupported: no architecture for a method that needs data, a group that does not divide, a shape the format
 *   cannot hold (unless `--unfit keep`), nothing to quantize
 */
export const planRun = (checkpoint: Checkpoint, architecture: Model | string, recipe: Recipe): Plan => {
  const { tensors } = checkpoint
  const model = typeof architecture === 'string' ? undefined : architecture
  if (!model && (recipe.calibration || recipe.stats !== null))
    throw new QuantizeError(
      'unsupported',
      `${checkpoint.path}: --method ${recipe.method} runs the model, but ${architecture}; methods that need no architecture: ${dataFreeMethods().join(', ')}`,
    )
  const format = formatNamed(recipe.format)
  const { linears: chosen, kept, narrowed } = chooseLinears(checkpoint, model, recipe, format)
  const biases = recipe.biasCorrection ? biasesOf(chosen, model!) : new Map<string, string>()
  const linearOf = new Map([...biases].map(([linear, bias]) => [bias, linear]))
  const untied = model?.tied === true && chosen.some(({ scheme }) => scheme.role === 'head')
  const replaced = new Map(
    chosen.filter(({ scheme }) => !(untied && scheme.role === 'head')).map(linear => [linear.weight.tensor, linear]),
  )
  const keptBy = new Map(kept.map(linear => [linear.weight.tensor, linear]))
  const rest = [...tensors.values()].filter(({ name }) => !replaced.has(name))
  const dropped = rest
    .filter(tensor => isDropped(tensor, format, checkpoint))
    .map(({ name }) => ({ name, reason: `format ${format.name}: its loaders make it themselves` }))
  const passed = rest
    .filter(tensor => !dropped.some(({ name }) => name === tensor.name))
    .map(tensor => {
      const { reason = passedReason(model), dtype } = keptBy.get(tensor.name) ?? {}
      const correctedWith = linearOf.get(tensor.name)
      const why = correctedWith === undefined ? reason : correctedReason
      return { ...passedTensor(tensor, why, recipe, format, dtype), correctedWith }
    })
  const stored = new Map(passed.map(({ name, stored }) => [name, stored]))
  const linears = chosen.map(linear => {
    const bias = biases.get(linear.name)
    return bias === undefined ? linear : withBias(linear, stored.get(bias)!)
  })
  const outputs = [
    ...[...tensors.keys()].flatMap(name => replaced.get(name)?.tensors ?? stored.get(name) ?? []),
    ...(untied ? linears.filter(({ scheme }) => scheme.role === 'head').flatMap(linear => linear.tensors) : []),
  ]
  const names = new Set<string>()
  for (const { name } of outputs) {
    if (names.has(name))
      throw new QuantizeError('bad-input', `${checkpoint.path}: already holds a tensor called ${name}`)
    names.add(name)
  }
  const fallbackGroups = linears.filter(
    ({ name, scheme }) => recipe.groupFallback && scheme.group !== recipe.group && !overridden(name, recipe),
  )
  return {
    recipe,
    format,
    model,
    linears,
    kept,
    passed,
    dropped,
    outputs,
    untied,
    warnings: [
      ...(model?.notes ?? []),
      ...(isDecoded(checkpoint) && recipe.method !== 'convert'
        ? [`the source is quantized already (${checkpoint.format.name}): its own error is not in this report`]
        : []),
      ...(model
        ? []
        : [
            `quantized by tensor shape (${architecture}): every two-dimensional weight but embeddings, norms and heads`,
          ]),
      ...(fallbackGroups.length > 0
        ? [
            `${plural(fallbackGroups.length, 'linear')} with a smaller group than ${recipe.group} (--group-fallback): ${describeGroups(fallbackGroups)}`,
          ]
        : []),
      ...narrowed,
      ...besideWarnings(recipe, linears, untied),
      ...activationWarnings(checkpoint, recipe, format),
      ...new Set(linears.flatMap(({ scheme }) => format.warnings(scheme))),
    ],
    totals: totalsOf(checkpoint, linears, outputs),
  }
}

const overridden = (name: string, { overrides }: Recipe): boolean =>
  overrides.some(({ glob, group, grid }) => (group ?? grid) !== undefined && matchesGlob(glob, name))

/** Of a source whose runtime quantizes activations, which the output does not say any more. */
const activationWarnings = (checkpoint: Checkpoint, { method }: Recipe, format: Format): string[] =>
  method === 'convert' &&
  isDecoded(checkpoint) &&
  !format.facts.activations &&
  [...checkpoint.schemes.values()].some(({ activations }) => activations)
    ? [
        `format ${format.name} declares no quantized activations, as ${checkpoint.format.name} does: its runtimes leave them as they are`,
      ]
    : []

/** Of head and embedding. */
const besideWarnings = (recipe: Recipe, linears: readonly PlannedLinear[], untied: boolean): string[] => [
  ...(recipe.calibration && linears.some(({ scheme }) => scheme.role !== 'linear')
    ? [`head and embedding are rounded to nearest: ${recipe.method} works on the linears of blocks`]
    : []),
  ...(untied ? ['the head was the embedding: quantized, it is stored as a weight of its own'] : []),
]

/**
 * A tensor that goes along, as the output stores it.
 * @throws QuantizeError bad-option when the format cannot hold the dtype asked for
 */
const passedTensor = (
  tensor: TensorInfo,
  reason: string,
  { restDtype }: Recipe,
  format: Format,
  own: WeightDtype | undefined,
): PassedTensor => {
  const { name, dtype, shape } = tensor
  const allowed = format.facts.restDtypes
  if (restDtype && allowed && !allowed.includes(restDtype))
    throw new QuantizeError(
      'bad-option',
      `--dtype ${restDtype.toLowerCase()}: format ${format.name} stores ${allowed.join(' or ')}`,
    )
  if (!isFloat(dtype)) return { name, reason, stored: { name, dtype, shape, bytes: tensor.bytes } }
  const settled = own ?? format.facts.restDtype?.(tensor)
  const wanted = settled ?? restDtype ?? (allowed && !allowed.includes(dtype as WeightDtype) ? allowed[0] : dtype)
  const bytes = (elements(tensor) * dtypeBits[wanted]) / 8
  const how = wanted === dtype ? reason : `${reason}; ${dtype} rounded to ${wanted}`
  return { name, reason: how, stored: { name, dtype: wanted, shape, bytes } }
}

/** Whether the output leaves it out. @throws QuantizeError unsupported for a tensor that the format has no place for */
const isDropped = (tensor: TensorInfo, format: Format, { path }: Checkpoint): boolean => {
  const why = format.facts.refusesRest?.(tensor)
  if (why === undefined || why === 'derived') return why === 'derived'
  throw new QuantizeError('unsupported', `${path}: ${why}`)
}

/** The scheme of a linear; or, where linears that do not fit are kept, why it has none. @throws QuantizeError as schemeOf */
const schemeOrReason = (
  candidate: Candidate,
  recipe: Recipe,
  format: Format,
  checkpoint: Checkpoint,
  typed: TypedScheme | undefined,
): LinearScheme | string => {
  try {
    return schemeOf(candidate, recipe, format, checkpoint, typed)
  } catch (error) {
    if (!(error instanceof QuantizeError) || error.code !== 'unsupported' || recipe.unfit !== 'keep') throw error
    return error.message.replace(`${candidate.linear.name}: `, '')
  }
}

/** Why AWQ's clip search cannot choose the ranges of a linear; undefined: it can. */
const clipRefusal = ({ group, grid }: LinearScheme, { second }: Storage): string | undefined =>
  group === 'tensor' || group === 'block' || second
    ? `--clip awq gives each group of columns a scale of its own, which ${second ? `grid ${grid}` : `--group ${group}`} has not; use --clip mse`
    : undefined

/** Chooses the linears and their schemes. @throws QuantizeError as planRun */
const chooseLinears = (
  checkpoint: Checkpoint,
  model: Model | undefined,
  recipe: Recipe,
  format: Format,
): Pick<Plan, 'linears' | 'kept'> & { readonly narrowed: readonly string[] } => {
  const { path, tensors } = checkpoint
  const candidates = candidatesOf(model, checkpoint, recipe, format)
  checkGlobs(recipe, candidates)
  const kept: KeptLinear[] = []
  const keep = ({ linear: { name, weight } }: Candidate, reason: string, dtype?: WeightDtype): undefined => {
    kept.push({ name, weight, reason, dtype })
  }
  const refuse = (candidate: Candidate, reason: string): undefined => {
    if (recipe.unfit === 'keep') return keep(candidate, reason)
    throw new QuantizeError(
      'unsupported',
      `${candidate.linear.name}: ${reason}; --unfit keep leaves such linears dense`,
    )
  }
  const types = typesFor(candidates, model, recipe, format)
  const schemes = new Map<string, LinearScheme | undefined>()
  for (const candidate of candidates) {
    const { name } = candidate.linear
    const excluded = leftOut(name, recipe) ?? decodedBeside(candidate, recipe, format)
    const typed = types?.get(name)
    if (!excluded && typed && isWeightDtype(typed.type)) {
      keep(candidate, `stored as ${typed.type}`, typed.type)
      continue
    }
    const found = excluded ? undefined : schemeOrReason(candidate, recipe, format, checkpoint, typed)
    const scheme = typeof found === 'string' ? undefined : found
    const reason = typeof found === 'string' ? found : found && refusal(candidate.linear, found, format, tensors)
    if (excluded) keep(candidate, excluded)
    if (reason) refuse(candidate, reason)
    schemes.set(name, reason ? undefined : scheme)
  }
  const first = [...schemes.values()].find(scheme => scheme !== undefined)!
  const linears = candidates.flatMap((candidate): PlannedLinear[] => {
    const { name, weight } = candidate.linear
    const scheme = schemes.get(name)
    if (!scheme) return []
    const reason = format.facts.fuses ? fusionRefusal(candidate, schemes) : undefined
    if (reason) refuse(candidate, reason)
    if (reason) return []
    if (format.facts.uniform && sharedPart(scheme) !== sharedPart(first)) {
      refuse(
        candidate,
        `format ${format.name} has one scheme for all linears: ${sharedPart(first)}, not ${sharedPart(scheme)}`,
      )
      return []
    }
    const storage = format.storage(scheme)
    const unclipped = recipe.clip === 'awq' ? clipRefusal(scheme, storage) : undefined
    if (unclipped) {
      refuse(candidate, unclipped)
      return []
    }
    const sharedWith = storage.second === 'global' ? candidate.shares : []
    return [{ name, weight, scheme, storage, sharedWith, tensors: format.layout(scheme) }]
  })
  if (linears.length === 0 && recipe.method !== 'convert')
    throw new QuantizeError(
      'unsupported',
      `${path}: no weight in it can be quantized (${plural(tensors.size, 'tensor')}, ${kept.length} kept dense)`,
    )
  return { linears, kept, narrowed: narrowedWarnings(linears, types) }
}

/** Types that were wanted and have no whole blocks in the rows. */
const narrowedWarnings = (
  linears: readonly PlannedLinear[],
  types: ReadonlyMap<string, TypedScheme> | undefined,
): string[] => {
  const counts = new Map<string, number>()
  for (const { name, scheme } of linears) {
    const { instead, type } = types?.get(name) ?? {}
    const what = `rows of ${scheme.in} weights are no whole blocks of ${instead}: ${type} instead, as llama-quantize does`
    if (instead) counts.set(what, (counts.get(what) ?? 0) + 1)
  }
  return [...counts].map(([what, count]) => `${plural(count, 'weight')}: ${what}`)
}

const describeGroups = (linears: readonly PlannedLinear[]): string =>
  [...new Set(linears.map(({ scheme }) => `${scheme.in} inputs in groups of ${scheme.group}`))].join(', ')

const totalsOf = (
  checkpoint: Checkpoint,
  linears: readonly PlannedLinear[],
  outputs: readonly TensorInfo[],
): PlanTotals => {
  const sources = [...checkpoint.tensors.values()]
  const weights = sum(sources.map(elements))
  const quantizedWeights = sum(linears.map(({ scheme }) => scheme.out * scheme.in))
  const bytesAfter = sum(outputs.map(({ bytes }) => bytes))
  return {
    weights,
    quantizedWeights,
    bitsPerWeight:
      (8 * sum(linears.flatMap(({ tensors }) => tensors.map(({ bytes }) => bytes)))) / Math.max(1, quantizedWeights),
    bitsPerWeightOverall: (8 * bytesAfter) / weights,
    bytesBefore: isDecoded(checkpoint) ? checkpoint.storedBytes : sum(sources.map(({ bytes }) => bytes)),
    bytesAfter,
  }
}
