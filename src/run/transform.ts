/** Fits the transform of a block's taps, and puts it into the weights that are read from here on. */
import type { Block, Stage, Statistics } from '../contracts.ts'
import { toBase64 } from '../dtype/base64.ts'
import type { Dtype, WeightDtype } from '../dtype/dtype.ts'
import type { Engine } from '../engine/ort/session.ts'
import type { PlannedLinear } from '../plan/linears.ts'
import { multiplyColumns, sampledRows, stacked, trialLosses } from '../quantize/trial.ts'
import type { TransformReport } from '../report/schema.ts'
import { applyScales } from '../transform/apply.ts'
import { type Fold, foldedTensors, foldOf } from '../transform/fold.ts'
import { transforms } from '../transform/index.ts'
import type { ScaleTransform, TapToScale } from '../transform/transform.ts'
import { type Run, sourceWeights } from './linear.ts'

/** Tensors that are not known yet when a run begins: those that a transform may change, which go along block by block, and biases to be corrected. */
export const waitingTensors = ({ plan: { model, recipe, passed } }: Pick<Run, 'plan'>): ReadonlySet<string> =>
  new Set([
    ...(recipe.transform === 'none' ? [] : model!.blocks.flatMap(foldedTensors)),
    ...passed.flatMap(({ name, correctedWith }) => (correctedWith === undefined ? [] : [name])),
  ])

/** A fold that the transform can use, or why not. */
const usableFold = (
  block: Block,
  stage: Stage,
  planned: ReadonlyMap<string, PlannedLinear>,
  stored: ReadonlyMap<string, Dtype>,
  { name, vias }: ScaleTransform,
): Fold | string => {
  const dense = stage.linears.find(linear => !planned.has(linear.name))
  if (dense) return `${dense.name} stays unquantized`
  const fold = foldOf(block, stage, linear => planned.has(linear))
  if (typeof fold === 'string') return fold
  const wide = fold.divided.find(tensor => stored.get(tensor) === 'F64')
  if (wide) return `${wide} is stored as F64, in which nothing is written`
  return vias.includes(fold.via) ? fold : `${name} leaves inputs that are not behind a norm alone`
}

/** Every eighth row is enough to tell which candidates are worth a whole trial. */
const sampleStep = 8

const extremes = (factors: Float32Array): { readonly smallest: number; readonly largest: number } => ({
  smallest: factors.reduce((a, b) => Math.min(a, b)),
  largest: factors.reduce((a, b) => Math.max(a, b)),
})

/**
 * Tap by tap, in the order in which the block computes them.
 * @param statistics of every tap of the block, with channels, in the model as it was
 * @returns by what each tap was divided, [width]; those that stay as they are have none
 */
export const transformBlock = async (
  run: Run,
  engine: Engine,
  block: Block,
  statistics: ReadonlyMap<Stage, Statistics>,
): Promise<ReadonlyMap<Stage, Float32Array>> => {
  const { plan, planned, scaled, kernels, output, transforms: reports } = run
  const { transform, clip, alpha } = plan.recipe
  const divided = new Map<Stage, Float32Array>()
  if (!scaled || transform === 'none') return divided
  const method = transforms[transform]
  const stored = new Map(plan.passed.map(({ name, stored }) => [name, stored.dtype]))
  for (const stage of block.stages) {
    const tap = stage.linears[0].name
    const untouched: TransformReport = {
      ...{ tap, producer: stage.from.name, via: null, divided: [], multiplied: [], heads: null, factors: null },
      ...{ exponent: null, weightExponent: null, smallest: 1, largest: 1 },
      ...{ errorBefore: null, error: null, reason: null },
    }
    const fold = usableFold(block, stage, planned, stored, method)
    if (typeof fold === 'string') {
      reports.push({ ...untouched, reason: fold })
      continue
    }
    const seen = statistics.get(stage)!
    const linears = stage.linears.map(({ name }) => ({
      ...planned.get(name)!,
      weights: sourceWeights(run, planned.get(name)!),
    }))
    const trials = stacked(linears)
    const sample = sampledRows(trials, sampleStep)
    const lossesOf =
      (rows: typeof trials): TapToScale['losses'] =>
      candidates =>
        trialLosses(engine, kernels, rows, candidates, seen.gram, clip === 'awq' ? 'minmax' : clip, run.context.signal)
    const found = await method.fit({
      ...{ fold, statistics: seen, alpha },
      linears: linears.map(({ scheme: { out, in: inputs, group }, weights }) => ({ out, in: inputs, group, weights })),
      ...{ losses: lossesOf(trials), estimates: lossesOf(sample) },
    })
    if (!found) {
      reports.push({ ...untouched, reason: 'no scales are better than none' })
      continue
    }
    const { exponent, weightExponent, loss, before, factors } = found
    const dtypeOf = (name: string): WeightDtype => stored.get(name) as WeightDtype
    const multiplied = stage.linears.map(({ weight }) => weight.tensor)
    divided.set(stage, applyScales(scaled, fold, factors, multiplied, dtypeOf))
    reports.push({
      ...untouched,
      ...{ via: fold.via, divided: [...fold.divided], multiplied, heads: fold.heads ? [...fold.heads] : null },
      ...{ factors: toBase64(factors), exponent, weightExponent, ...extremes(factors) },
      ...{ errorBefore: before, error: loss },
    })
  }
  const waiting = new Set(foldedTensors(block))
  for (const { name, correctedWith } of plan.passed)
    if (waiting.has(name) && correctedWith === undefined) output.pass(name)
  return divided
}

/** Statistics of the tap divided by factors: exact, but for the histogram, which cannot follow. */
export const dividedStatistics = (statistics: Statistics, factors: Float32Array | undefined): Statistics => {
  if (!factors) return statistics
  const { count, gram, channels } = statistics
  const n = factors.length
  const inverse = factors.map(factor => 1 / factor)
  const divided = multiplyColumns(gram.slice(), inverse)
  for (let row = 0; row < n; row++) for (let i = 0; i < n; i++) divided[row * n + i] *= inverse[row]
  const over = (values: Float32Array): Float32Array => values.map((value, i) => value / factors[i])
  if (!channels) return { count, gram: divided }
  const { mean, absMean, low, high } = channels
  return {
    count,
    gram: divided,
    channels: { mean: over(mean), absMean: over(absMean), low: over(low), high: over(high) },
  }
}
