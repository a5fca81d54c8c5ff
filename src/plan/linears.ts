/** Which linears are quantized, each with which scheme, and which stay dense. */
import type {
  Checkpoint,
  Format,
  LinearScheme,
  Model,
  Storage,
  TensorInfo,
  TypedScheme,
  WeightView,
} from '../contracts.ts'
import { isWeightDtype } from '../dtype/convert.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'
import { plural } from '../plural.ts'
import type { Recipe } from '../recipe.ts'
import { type Candidate, candidatesOf } from './candidates.ts'
import { checkGlobs, leftOut } from './globs.ts'
import { clipRefusal, decodedBeside, formatRefusal, fusionRefusal, uniformRefusal } from './refusals.ts'
import { schemeOf, typesFor } from './schemes.ts'

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

export interface ChosenLinears {
  readonly linears: readonly PlannedLinear[]
  readonly kept: readonly KeptLinear[]
  /** Of a format that has types: the type that was found for each weight, by name. */
  readonly types?: ReadonlyMap<string, TypedScheme>
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

/** Chooses the linears and their schemes. @throws QuantizeError as planRun */
export const chooseLinears = (
  checkpoint: Checkpoint,
  model: Model | undefined,
  recipe: Recipe,
  format: Format,
): ChosenLinears => {
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
    const reason = typeof found === 'string' ? found : found && formatRefusal(candidate.linear, found, format, tensors)
    if (excluded) keep(candidate, excluded)
    if (reason) refuse(candidate, reason)
    schemes.set(name, reason ? undefined : scheme)
  }
  const first = [...schemes.values()].find(scheme => scheme !== undefined)!
  const linears = candidates.flatMap((candidate): PlannedLinear[] => {
    const { name, weight } = candidate.linear
    const scheme = schemes.get(name)
    if (!scheme) return []
    const storage = format.storage(scheme)
    const reason =
      (format.facts.fuses ? fusionRefusal(candidate, schemes) : undefined) ??
      (format.facts.uniform ? uniformRefusal(scheme, first, format) : undefined) ??
      (recipe.clip === 'awq' ? clipRefusal(scheme, storage) : undefined)
    if (reason) refuse(candidate, reason)
    if (reason) return []
    const sharedWith = storage.second === 'global' ? candidate.shares : []
    return [{ name, weight, scheme, storage, sharedWith, tensors: format.layout(scheme) }]
  })
  if (linears.length === 0 && recipe.method !== 'convert')
    throw new QuantizeError(
      'unsupported',
      `${path}: no weight in it can be quantized (${plural(tensors.size, 'tensor')}, ${kept.length} kept dense)`,
    )
  return { linears, kept, types }
}
