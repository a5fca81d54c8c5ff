/** Quantizes what needs no calibration. */
import { type DecodedCheckpoint, isDecoded } from '../decoded-checkpoint.ts'
import type { PlannedLinear } from '../plan/linears.ts'
import { plainRounding } from '../quantize/stage-rounding.ts'
import { convertRounding } from './convert-rounding.ts'
import { type Begun, finishLinear, type Run, roundLinear, takeFinished } from './linear.ts'

/** Begun while others are finished: one linear, or several as small as these together, so that the workers need not wait for this thread. */
const weightsAhead = 2 ** 22

const weightsOf = ({ scheme }: PlannedLinear): number => scheme.out * scheme.in

/** All linears that need no calibration or lie outside the blocks. */
export const quantizeDataFree = async (run: Run): Promise<void> => {
  const { kernels, plan, checkpoint, weightings } = run
  const rounding =
    plan.recipe.method === 'convert'
      ? convertRounding(kernels, plan, checkpoint as DecodedCheckpoint)
      : plainRounding(kernels, plan.recipe, weightings?.of)
  const todo = plan.linears.filter(linear => !run.facts.has(linear.name) && !takeFinished(run, linear))
  const begun: Promise<Begun>[] = []
  // a decoded source keeps one linear in memory: with two at a time it would decode each twice
  const ahead = isDecoded(checkpoint) ? 0 : weightsAhead
  let [next, weights] = [0, 0]
  const beginUpTo = (most: number): void => {
    while (next < todo.length && weights < most) {
      const linear = todo[next++]
      weights += weightsOf(linear)
      begun.push(roundLinear(run, linear, rounding))
      begun.at(-1)!.catch(() => {}) // it is thrown when its turn comes
    }
  }
  try {
    for (const linear of todo) {
      beginUpTo(Math.max(ahead, 1))
      const rounded = await begun.shift()!
      weights -= weightsOf(linear)
      beginUpTo(ahead)
      await finishLinear(run, linear, rounding, rounded)
    }
  } finally {
    await Promise.allSettled(begun)
  }
}
