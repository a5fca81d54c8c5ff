/** The transform of a run, done again from its report. */
import type { Checkpoint } from '../contracts.ts'
import { fromBase64 } from '../dtype/base64.ts'
import { isWeightDtype } from '../dtype/convert.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { printable } from '../io/printable.ts'
import { product } from '../io/size.ts'
import type { Report } from '../report/schema.ts'
import { applyScales } from '../transform/apply.ts'
import { isFinitePositive } from '../transform/factors.ts'
import { channelsBehind } from '../transform/fold.ts'
import { scaledCheckpoint } from '../transform/scaled-checkpoint.ts'
import { refuse, tensorOf } from './difference.ts'

/** The source with the transform that the report tells put into its weights again. @throws QuantizeError bad-input for one that cannot be */
export const transformed = (source: Checkpoint, output: Checkpoint, { transforms }: Report): Checkpoint => {
  if (transforms.every(({ factors }) => factors === null)) return source
  const scaled = scaledCheckpoint(source)
  for (const { tap, via, divided, multiplied, heads, factors } of transforms) {
    if (via === null || factors === null) continue
    const values = fromBase64(factors)
    const [weight, ...rest] = divided.map(name => tensorOf(source, name))
    const columns = multiplied.map(name => tensorOf(source, name))
    const width = columns[0]?.shape[1] ?? 0
    const norm = via === 'norm' ? output.tensors.get(divided[0])?.dtype : 'F32'
    const fits =
      isWeightDtype(norm) &&
      values?.every(isFinitePositive) === true &&
      weight !== undefined &&
      columns.every(({ shape }) => shape.length === 2 && shape[1] === width) &&
      weight.shape[0] === values.length &&
      rest.every(({ shape, name }) => product(shape, printable(name)) === values.length) &&
      (heads
        ? width % heads[0] === 0 && heads[0] % heads[1] === 0 && values.length === (width / heads[0]) * heads[1]
        : values.length === width)
    if (!fits) return refuse(output.path, `the transform of the input of ${printable(tap)} does not fit the source`)
    const fold = { divided, via, channelOf: channelsBehind(width, heads ?? undefined) }
    applyScales(scaled, fold, values, multiplied, name => output.tensors.get(name)?.dtype as WeightDtype)
  }
  return scaled
}
