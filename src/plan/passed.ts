/** What becomes of tensors that are not quantized: they pass along, perhaps in another dtype, or are dropped. */
import type { Format, Model, TensorInfo } from '../contracts.ts'
import { isFloat } from '../dtype/convert.ts'
import { dtypeBits, type WeightDtype } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'
import type { Recipe } from '../recipe.ts'
import type { KeptLinear } from './linears.ts'
import { elements } from './totals.ts'

export interface PassedTensor {
  readonly name: string
  readonly reason: string
  /** In the output: of another dtype, where the format or --dtype wants one. */
  readonly stored: TensorInfo
  /** Of a bias that the run corrects: its linear. */
  readonly correctedWith?: string
}

/** A tensor without a place in the output, which needs none there. */
export interface DroppedTensor {
  readonly name: string
  readonly reason: string
}

const passedReason = (model: Model | undefined): string =>
  model
    ? 'stored as it was: not the weight of a linear in a block'
    : 'stored as it was: not a two-dimensional weight, or an embedding, norm or head by its name'

const correctedReason = 'corrected for the error of the weights beside it (--bias-correction)'

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
const isDropped = (tensor: TensorInfo, format: Format, path: string): boolean => {
  const why = format.facts.refusesRest?.(tensor)
  if (why === undefined || why === 'derived') return why === 'derived'
  throw new QuantizeError('unsupported', `${path}: ${why}`)
}

/** What a plan has settled before. */
interface Settled {
  readonly kept: readonly KeptLinear[]
  /** Names of the biases that the run corrects, by those of their linears. */
  readonly biases: ReadonlyMap<string, string>
  readonly model: Model | undefined
  readonly recipe: Recipe
  readonly format: Format
}

/**
 * @param rest tensors of the source that nothing replaces
 * @param path of the source
 * @throws QuantizeError unsupported for a tensor that the format has no place for; bad-option as passedTensor
 */
export const passRest = (
  rest: readonly TensorInfo[],
  path: string,
  { kept, biases, model, recipe, format }: Settled,
): { readonly passed: readonly PassedTensor[]; readonly dropped: readonly DroppedTensor[] } => {
  const keptBy = new Map(kept.map(linear => [linear.weight.tensor, linear]))
  const linearOf = new Map([...biases].map(([linear, bias]) => [bias, linear]))
  const left = new Set(rest.filter(tensor => isDropped(tensor, format, path)))
  const passed = rest
    .filter(tensor => !left.has(tensor))
    .map(tensor => {
      const { reason = passedReason(model), dtype } = keptBy.get(tensor.name) ?? {}
      const correctedWith = linearOf.get(tensor.name)
      const why = correctedWith === undefined ? reason : correctedReason
      return { ...passedTensor(tensor, why, recipe, format, dtype), correctedWith }
    })
  const reason = `format ${format.name}: its loaders make it themselves`
  return { passed, dropped: [...left].map(({ name }) => ({ name, reason })) }
}
