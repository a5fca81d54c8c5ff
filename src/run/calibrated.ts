/** Quantizes the blocks by what their taps see: in one pass that quantizes as it goes, or from what the unquantized model showed. */
import { calibratedPass, type PassOptions, type Visitor, type Weights } from '../calibrate/pass.ts'
import type { CalibrationSample } from '../calibrate/sample.ts'
import { type StatisticsFile, tapName } from '../calibrate/statistics-file.ts'
import { readWeight } from '../checkpoint/read-weight.ts'
import type { Block, Checkpoint, Stage, StatisticName, Statistics } from '../contracts.ts'
import { createEngine, type Engine } from '../engine/ort/session.ts'
import { createSpill } from '../engine/ort/spill.ts'
import type { PlannedLinear } from '../plan/linears.ts'
import { feedbackRounding, nearestRounding } from '../quantize/stage-rounding.ts'
import { withStaticScale } from '../quantize/static-scale.ts'
import type { Recipe } from '../recipe.ts'
import { storedBias } from './bias-correction.ts'
import { finishLinear, type Run, roundLinear, storedWeight, takeFinished } from './linear.ts'
import { dividedStatistics, transformBlock } from './transform.ts'

/** Calls with an engine, which ends with the call. */
const withEngine = async (run: Run, work: (engine: Engine) => Promise<void>): Promise<void> => {
  const engine = await createEngine(run.context.threads)
  try {
    await work(engine)
  } finally {
    await engine.release()
  }
}

/** Those of a stage that are quantized. */
const linearsOf = ({ planned }: Run, { linears }: Stage): readonly PlannedLinear[] =>
  linears.map(({ name }) => planned.get(name)).filter(linear => linear !== undefined)

/** Whether an earlier run finished all that can be quantized with statistics: then its facts are taken over. What its transform was is not kept, and found again. */
const allFinished = (run: Run): boolean => {
  const inBlocks = run.plan.linears.filter(({ scheme }) => scheme.role === 'linear')
  return inBlocks.filter(linear => takeFinished(run, linear)).length === inBlocks.length && !run.scaled
}

/** Linears whose outputs attention compares: a cut of their range is amplified there, so AWQ leaves it as it is. */
const comparedLinears = ({ ops }: Block): ReadonlySet<string> => {
  const compared = new Set(ops.flatMap(op => (op.op === 'attention' ? [op.q, op.k] : [])))
  return new Set(ops.flatMap(op => (op.op === 'linear' && compared.has(op.y) ? [op.linear] : [])))
}

/** What the output holds of a finished linear, by name: its weight, and its bias where that is corrected. @param kept the weight, where it need not be read back */
const storedParts = (
  run: Run,
  linear: PlannedLinear,
  kept?: Float32Array,
): readonly (readonly [name: string, values: () => Float32Array])[] => [
  [linear.name, () => kept ?? storedWeight(run, linear)],
  ...(linear.bias ? [[linear.bias.name, () => storedBias(run, linear)] as const] : []),
]

/** Rounds the linears behind a tap. Returns what the output holds of them. */
const quantizeStage = async (
  run: Run,
  engine: Engine,
  block: Block,
  stage: Stage,
  statistics: Statistics,
  zeroed: number,
): Promise<Weights> => {
  const { plan, context, kernels } = run
  const replaced = new Map<string, () => Float32Array>()
  const outputs = { engine, statistics, zeroed, keepDecoded: context.memory.keepDecoded }
  const tap = `${block.name}: input of ${stage.linears[0].name}`
  const unclipped = comparedLinears(block)
  const rounding =
    plan.recipe.rounding === 'gptq'
      ? await feedbackRounding(engine, kernels, statistics, plan.recipe, tap, unclipped)
      : nearestRounding(engine, kernels, statistics, plan.recipe, unclipped)
  try {
    for (const linear of linearsOf(run, stage).map(planned => withInputScale(planned, statistics, plan.recipe))) {
      const kept = takeFinished(run, linear)
        ? undefined
        : await finishLinear(run, linear, rounding, await roundLinear(run, linear, rounding), outputs)
      for (const [name, values] of storedParts(run, linear, kept)) replaced.set(name, values)
    }
  } finally {
    rounding.release()
  }
  return replaced
}

/** What a recipe needs to know of taps beside their Gram matrices. */
const collectedFor = ({ transform, activationScales, biasCorrection }: Recipe): ReadonlySet<StatisticName> =>
  new Set<StatisticName>([
    ...(transform !== 'none' || activationScales !== 'dynamic' || biasCorrection ? ['channels' as const] : []),
    ...(activationScales === 'mse' || activationScales === 'percentile' ? ['histogram' as const] : []),
  ])

/** With the scale of its input, where the output stores one. */
const withInputScale = (linear: PlannedLinear, statistics: Statistics, { activationScales }: Recipe): PlannedLinear => {
  const { scheme } = linear
  const { activations, dtype } = scheme
  if (!activations || activationScales === 'dynamic') return linear
  return {
    ...linear,
    scheme: { ...scheme, activations: withStaticScale(activations, statistics, activationScales, dtype) },
  }
}

const passOptions = (run: Run, spill: PassOptions['spill']): PassOptions => ({
  spill,
  drift: run.plan.recipe.correct > 0,
  zeroNonFinite: run.plan.recipe.nonfinite === 'zero',
  collect: collectedFor(run.plan.recipe),
  onChunk(block, stage, _done, of) {
    run.context.signal.throwIfAborted()
    run.meter.chunk(block, stage, of)
  },
})

const runPass = (
  run: Run,
  { windows }: CalibrationSample,
  checkpoint: Checkpoint,
  visitorOf: (engine: Engine) => Visitor,
) =>
  withEngine(run, async engine => {
    const { context, plan, temporary } = run
    const spill = context.memory.spillBytes > 0 ? createSpill(temporary, context.files) : undefined
    try {
      const read: Parameters<typeof calibratedPass>[3] = view => readWeight(checkpoint, view).data
      await calibratedPass(engine, plan.model!, windows, read, visitorOf(engine), passOptions(run, spill))
    } finally {
      spill?.close()
    }
  })

/** Stage by stage: the tap's statistics, then its linears, then on through the quantized ones. */
const quantizeSequentially = async (run: Run, sample: CalibrationSample): Promise<void> => {
  await runPass(run, sample, run.checkpoint, engine => ({
    ...(run.scaled
      ? {
          async ahead(block, statistics) {
            await transformBlock(run, engine, block, statistics)
          },
        }
      : {}),
    known(stage) {
      const linears = linearsOf(run, stage)
      if (!linears.every(({ name }) => run.output.earlier.has(name))) return undefined
      return new Map(linears.flatMap(linear => storedParts(run, linear)))
    },
    visit: ({ stage, block, statistics, zeroed }) => quantizeStage(run, engine, block, stage, statistics, zeroed),
  }))
}

interface Seen {
  readonly statistics: Statistics
  readonly zeroed: number
}

/** All linears of a block, from what its taps see in the unquantized model. */
const quantizeBlock = async (run: Run, engine: Engine, block: Block, seen: ReadonlyMap<Stage, Seen>): Promise<void> => {
  const statistics = new Map([...seen].map(([stage, { statistics }]) => [stage, statistics]))
  const divided = await transformBlock(run, engine, block, statistics)
  for (const [stage, { statistics, zeroed }] of seen)
    await quantizeStage(run, engine, block, stage, dividedStatistics(statistics, divided.get(stage)), zeroed)
}

/** Whether nothing of a block is left to do. */
const isFinished = (run: Run, { stages }: Block): boolean => {
  const linears = stages.flatMap(stage => linearsOf(run, stage))
  return !run.scaled && linears.every(({ name }) => run.output.earlier.has(name))
}

/** One pass over the unquantized model; each block is quantized when all its taps have been seen. */
const quantizeBehindPass = async (run: Run, sample: CalibrationSample): Promise<void> => {
  let seen = new Map<Stage, Seen>()
  await runPass(run, sample, run.source, engine => ({
    known: stage => {
      const block = run.plan.model!.blocks.find(({ stages }) => stages.includes(stage))!
      return isFinished(run, block) ? new Map() : undefined
    },
    async visit({ stage, block, statistics, zeroed }) {
      seen.set(stage, { statistics, zeroed })
      if (stage === block.stages.at(-1)) {
        await quantizeBlock(run, engine, block, seen)
        seen = new Map()
      }
      return new Map()
    },
  }))
}

/** From statistics on disk: nothing is run. */
const quantizeFromFile = async (run: Run, file: StatisticsFile): Promise<void> => {
  await withEngine(run, async engine => {
    for (const block of run.plan.model!.blocks) {
      run.context.signal.throwIfAborted()
      if (isFinished(run, block)) continue
      const seen = block.stages.map(stage => [stage, { statistics: file.read(tapName(stage)), zeroed: 0 }] as const)
      await quantizeBlock(run, engine, block, new Map(seen))
    }
  })
}

/** Where a run learns what its taps see: a text, or a file. */
export interface Known {
  readonly sample: CalibrationSample | undefined
  readonly stats: StatisticsFile | undefined
}

/** The linears of blocks, as far as something is known of what they read. */
export const quantizeKnown = async (run: Run, { sample, stats }: Known): Promise<void> => {
  if ((!sample && !stats) || allFinished(run)) return
  if (stats) await quantizeFromFile(run, stats)
  else if (run.plan.recipe.rounding === 'gptq') await quantizeSequentially(run, sample!)
  else await quantizeBehindPass(run, sample!)
}
