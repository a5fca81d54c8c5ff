/**
 * Options + checkpoint header → Plan, plain data: linear by linear what will be done and stored. `--dry-run` prints it.
 * Every refusal that can be known from headers happens here, before a weight is read.
 */
import type { Checkpoint, Format, Model, TensorInfo } from './contracts.ts'
import { QuantizeError } from './errors.ts'
import { formatNamed } from './format/index.ts'
import { dataFreeMethods } from './method/index.ts'
import { biasesOf, withBiases } from './plan/biases.ts'
import { chooseLinears, type KeptLinear, type PlannedLinear } from './plan/linears.ts'
import { type DroppedTensor, type PassedTensor, passRest } from './plan/passed.ts'
import { type PlanTotals, totalsOf } from './plan/totals.ts'
import { warningsOf } from './plan/warnings.ts'
import type { Recipe } from './recipe.ts'

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
  readonly dropped: readonly DroppedTensor[]
  /** All tensors of the output, in the source's order. */
  readonly outputs: readonly TensorInfo[]
  /** The head becomes a weight of its own, where the source shares the embedding's. */
  readonly untied: boolean
  readonly warnings: readonly string[]
  readonly totals: PlanTotals
}

/**
 * @param model the architecture; or why there is none, to go by tensor shape (data-free methods only)
 * @throws QuantizeError unsupported: no architecture for a method that needs data, a group that does not divide, a shape the format
 *   cannot hold (unless `--unfit keep`), nothing to quantize
 */
export const planRun = (checkpoint: Checkpoint, architecture: Model | string, recipe: Recipe): Plan => {
  const { path, tensors } = checkpoint
  const model = typeof architecture === 'string' ? undefined : architecture
  if (!model && (recipe.calibration || recipe.stats !== null))
    throw new QuantizeError(
      'unsupported',
      `${path}: --method ${recipe.method} runs the model, but ${architecture}; methods that need no architecture: ${dataFreeMethods().join(', ')}`,
    )
  const format = formatNamed(recipe.format)
  const { linears: chosen, kept, types } = chooseLinears(checkpoint, model, recipe, format)
  const biases = recipe.biasCorrection ? biasesOf(chosen, model!) : new Map<string, string>()
  const untied = model?.tied === true && chosen.some(({ scheme }) => scheme.role === 'head')
  const replaced = new Map(
    chosen.filter(({ scheme }) => !(untied && scheme.role === 'head')).map(linear => [linear.weight.tensor, linear]),
  )
  const rest = [...tensors.values()].filter(({ name }) => !replaced.has(name))
  const { passed, dropped } = passRest(rest, path, { kept, biases, model, recipe, format })
  const stored = new Map(passed.map(({ name, stored }) => [name, stored]))
  const linears = withBiases(chosen, biases, stored)
  const outputs = [
    ...[...tensors.keys()].flatMap(name => replaced.get(name)?.tensors ?? stored.get(name) ?? []),
    ...(untied ? linears.filter(({ scheme }) => scheme.role === 'head').flatMap(linear => linear.tensors) : []),
  ]
  checkNames(outputs, path)
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
    warnings: warningsOf(checkpoint, architecture, recipe, format, { linears, types, untied }),
    totals: totalsOf(checkpoint, linears, outputs),
  }
}

/** @throws QuantizeError bad-input where two tensors of the output have one name */
const checkNames = (outputs: readonly TensorInfo[], path: string): void => {
  const names = new Set<string>()
  for (const { name } of outputs) {
    if (names.has(name)) throw new QuantizeError('bad-input', `${path}: already holds a tensor called ${name}`)
    names.add(name)
  }
}
