/** Counts a run's work in multiply-adds, so that the time left can be told. */
import type { CalibrationSample } from '../calibrate/sample.ts'
import type { Block, Stage } from '../contracts.ts'
import type { PlannedLinear } from '../plan/linears.ts'
import type { Plan } from '../plan.ts'
import type { Report } from '../progress.ts'
import { looksAhead } from '../recipe.ts'

/** A sweep's multiply-add against one of a product: it runs at a fifth of the speed (docs/performance.md). */
const sweepWeight = 5
/** Reading, packing, checking and writing one weight. */
const storeWeight = 500

export interface Meter {
  /** One of `of` chunks has gone through the part of the block that computes the stage's tap (undefined: the block's end). */
  chunk(block: Block, stage: Stage | undefined, of: number): void
  linear(linear: PlannedLinear, result: LinearResult): void
  /** A linear that an earlier run finished. */
  earlier(linear: PlannedLinear): void
}

export interface LinearResult {
  readonly method: string
  readonly sqnrDb: number | null
  readonly relativeOutputError: number | null
  readonly seconds: number
}

const weightsOf = (stage: Stage | undefined): number =>
  (stage?.linears ?? []).reduce((sum, { out, in: inputs }) => sum + out * inputs, 0)

const linearWork = ({ scheme: { out, in: inputs } }: PlannedLinear, swept: boolean): number =>
  out * inputs * (storeWeight + (swept ? sweepWeight * inputs : 0))

export const createMeter = (plan: Plan, sample: CalibrationSample | undefined, progress: Report): Meter => {
  const tokens = sample?.report.tokensUsed ?? 0
  const blocks = sample ? plan.model!.blocks : []
  /** Up to a stage's tap run the linears of the stage before; then its Gram matrix, of which half is computed. */
  const passWork = (block: Block, stage: Stage | undefined): number => {
    const index = stage ? block.stages.indexOf(stage) : block.stages.length
    return tokens * (weightsOf(block.stages[index - 1]) + (stage?.width ?? 0) ** 2 / 2)
  }
  /** Behind the last tap of the model nothing is computed. */
  const partsOf = (block: Block): readonly (Stage | undefined)[] => [
    ...(looksAhead(plan.recipe) ? block.stages : []),
    ...block.stages,
    ...(block === blocks.at(-1) ? [] : [undefined]),
  ]
  const total =
    blocks.flatMap(block => partsOf(block).map(stage => passWork(block, stage))).reduce((sum, work) => sum + work, 0) +
    plan.linears.reduce((sum, linear) => sum + linearWork(linear, sample !== undefined), 0)
  let done = 0
  let finished = 0
  progress({ kind: 'start', totalWork: total, title: `${plan.recipe.method}, ${plan.recipe.bits} bits` })
  return {
    chunk(block, stage, of) {
      done += passWork(block, stage) / of
      progress({
        kind: 'work',
        done,
        label: stage
          ? `${block.name}: ${stage.linears.map(({ name }) => name.split('.').pop()).join(', ')}`
          : block.name,
      })
    },
    earlier(linear) {
      done += linearWork(linear, sample !== undefined)
      finished++
    },
    linear(linear, { method, sqnrDb, relativeOutputError, seconds }) {
      done += linearWork(linear, sample !== undefined)
      progress({
        kind: 'linear',
        name: linear.name,
        index: ++finished,
        count: plan.linears.length,
        method,
        sqnrDb: sqnrDb ?? Number.POSITIVE_INFINITY,
        relativeOutputError,
        seconds,
      })
      progress({ kind: 'work', done, label: linear.name })
    },
  }
}
