/**
 * Options + checkpoint header → Plan, plain data: linear by linear what will be done and stored. `--dry-run` prints it.
 * Every refusal that can be known from headers happens here, before a weight is read.
 */
import type {
  Checkpoint,
  Format,
  Group,
  Linear,
  LinearScheme,
  Model,
  Storage,
  TensorInfo,
  WeightDtype,
  WeightView,
} from './contracts.ts'
import { isFloat } from './dtype/convert.ts'
import { QuantizeError } from './errors.ts'
import { formatNamed } from './format/index.ts'
import { dataFreeMethods, methods } from './method/index.ts'
import { divisorsOf, granularity } from './quantize/granularity.ts'
import type { Recipe } from './recipe.ts'

/** One linear that will be quantized. */
export interface PlannedLinear {
  readonly name: string
  readonly weight: WeightView
  readonly scheme: LinearScheme
  readonly storage: Storage
  /** What it becomes in the output. */
  readonly tensors: readonly TensorInfo[]
}

export interface KeptLinear {
  readonly name: string
  readonly weight: WeightView
  readonly reason: string
}

export interface PassedTensor {
  readonly name: string
  readonly reason: string
}

export interface Plan {
  readonly recipe: Recipe
  readonly format: Format
  /** undefined: quantized by tensor shape, without an architecture. */
  readonly model?: Model
  readonly linears: readonly PlannedLinear[]
  /** Linears of the model's blocks that the format cannot hold, under `--unfit keep`. */
  readonly kept: readonly KeptLinear[]
  /** Source tensors that go into the output unchanged, and why. */
  readonly passed: readonly PassedTensor[]
  /** All tensors of the output, in the source's order. */
  readonly outputs: readonly TensorInfo[]
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

const linearsOf = (model: Model): Linear[] =>
  model.blocks.flatMap(block => block.stages.flatMap(stage => stage.linears))

/** The group of one linear under `--group-fallback`: the largest divisor of its inputs not above the group asked. */
const groupFor = (linear: Linear, { group, groupFallback }: Recipe): Group => {
  if (typeof group !== 'number' || linear.in % group === 0) return group
  const divisors = divisorsOf(linear.in).filter(size => size > 1)
  const below = divisors.filter(size => size <= group)
  if (groupFallback && below.length > 0) return below[below.length - 1]
  const near = divisors.filter(size => size >= 16 && size <= 4 * group).slice(-8)
  throw new QuantizeError(
    'unsupported',
    `${linear.name}: groups of ${group} do not divide its ${linear.in} inputs; use --group ${near.join(', ')} or channel, or --group-fallback for the largest that fits each linear`,
  )
}

/** Of a weight that can be quantized; others are refused before it matters. */
const dtypeOf = ({ weight }: Linear, tensors: ReadonlyMap<string, TensorInfo>): WeightDtype =>
  tensors.get(weight.tensor)!.dtype as WeightDtype

const planLinear = (
  linear: Linear,
  recipe: Recipe,
  format: Format,
  tensors: ReadonlyMap<string, TensorInfo>,
): PlannedLinear => {
  const group = groupFor(linear, recipe)
  const { name, weight, out, in: inputs } = linear
  const { groups } = granularity(group, inputs)
  const scheme = {
    name,
    out,
    in: inputs,
    role: 'linear' as const,
    dtype: dtypeOf(linear, tensors),
    grid: recipe.grid,
    bits: recipe.bits,
    symmetric: recipe.symmetric,
    group,
    groups,
    actOrder: recipe.actOrder,
  }
  return { name, weight, scheme, storage: format.storage(scheme), tensors: format.layout(scheme) }
}

const refusal = (
  linear: Linear,
  planned: PlannedLinear,
  format: Format,
  tensors: ReadonlyMap<string, TensorInfo>,
): string | undefined => {
  if (linear.weight.rows || linear.weight.transpose)
    return `its weight is a part of ${linear.weight.tensor}, which format ${format.name} cannot hold`
  const { dtype } = tensors.get(linear.weight.tensor)!
  if (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16')
    return `its weight is ${dtype}; F32, F16 and BF16 can be quantized`
  return format.refuses(planned.scheme)
}

const passedReason = (model: Model | undefined): string =>
  model
    ? 'stored as it was: not the weight of a linear in a block'
    : 'stored as it was: not a two-dimensional weight, or an embedding, norm or head by its name'

const plural = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? '' : 's'}`

/**
 * @param model the architecture; or why there is none, to go by tensor shape (data-free methods only)
 * @throws QuantizeError unsupported: no architecture for a method that needs data, a group that does not divide, a shape the format
 *   cannot hold (unless `--unfit keep`), nothing to quantize
 */
export const planRun = (checkpoint: Checkpoint, architecture: Model | string, recipe: Recipe): Plan => {
  const { tensors } = checkpoint
  const model = typeof architecture === 'string' ? undefined : architecture
  if (!model && methods[recipe.method].needs.length > 0)
    throw new QuantizeError(
      'unsupported',
      `${checkpoint.path}: --method ${recipe.method} runs the model, but ${architecture}; methods that need no architecture: ${dataFreeMethods().join(', ')}`,
    )
  const format = formatNamed(recipe.format)
  const linears: PlannedLinear[] = []
  const kept: KeptLinear[] = []
  for (const linear of model ? linearsOf(model) : linearsByShape(tensors)) {
    const planned = planLinear(linear, recipe, format, tensors)
    const reason = refusal(linear, planned, format, tensors)
    if (!reason) linears.push(planned)
    else if (recipe.unfit === 'keep') kept.push({ name: linear.name, weight: linear.weight, reason })
    else throw new QuantizeError('unsupported', `${linear.name}: ${reason}; --unfit keep leaves such linears dense`)
  }
  if (linears.length === 0)
    throw new QuantizeError(
      'unsupported',
      `${checkpoint.path}: no weight in it can be quantized (${plural(tensors.size, 'tensor')}, ${kept.length} kept dense)`,
    )

  const replaced = new Map(linears.map(linear => [linear.weight.tensor, linear]))
  const reasons = new Map(kept.map(({ weight, reason }) => [weight.tensor, reason]))
  const passed = [...tensors.keys()]
    .filter(name => !replaced.has(name))
    .map(name => ({ name, reason: reasons.get(name) ?? passedReason(model) }))
  const outputs = [...tensors.values()].flatMap(
    (tensor): readonly TensorInfo[] => replaced.get(tensor.name)?.tensors ?? [tensor],
  )
  const names = new Set<string>()
  for (const { name } of outputs) {
    if (names.has(name))
      throw new QuantizeError('bad-input', `${checkpoint.path}: already holds a tensor called ${name}`)
    names.add(name)
  }
  const fallbackGroups = linears.filter(({ scheme }) => scheme.group !== recipe.group)
  return {
    recipe,
    format,
    model,
    linears,
    kept,
    passed,
    outputs,
    warnings: [
      ...(model?.notes ?? []),
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
      ...new Set(linears.flatMap(({ scheme }) => format.warnings(scheme))),
    ],
    totals: totalsOf([...tensors.values()], linears, outputs),
  }
}

const describeGroups = (linears: readonly PlannedLinear[]): string =>
  [...new Set(linears.map(({ scheme }) => `${scheme.in} inputs in groups of ${scheme.group}`))].join(', ')

const totalsOf = (
  sources: readonly TensorInfo[],
  linears: readonly PlannedLinear[],
  outputs: readonly TensorInfo[],
): PlanTotals => {
  const weights = sum(sources.map(elements))
  const quantizedWeights = sum(linears.map(({ scheme }) => scheme.out * scheme.in))
  const bytesAfter = sum(outputs.map(({ bytes }) => bytes))
  return {
    weights,
    quantizedWeights,
    bitsPerWeight: (8 * sum(linears.flatMap(({ tensors }) => tensors.map(({ bytes }) => bytes)))) / quantizedWeights,
    bitsPerWeightOverall: (8 * bytesAfter) / weights,
    bytesBefore: sum(sources.map(({ bytes }) => bytes)),
    bytesAfter,
  }
}
