/** The corrected biases of a run. What is added to each is found when its linear is stored, and lies in that linear's record of the journal. */
import { castSource } from '../checkpoint/cast-source.ts'
import type { TensorSource } from '../contracts.ts'
import { fromBase64 } from '../dtype/base64.ts'
import { toFloat32 } from '../dtype/convert.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import type { PlannedLinear } from '../plan/linears.ts'
import { shiftedBias } from '../quantize/bias-correction.ts'
import type { Run } from './linear.ts'

/** The bias of a finished linear: what the transform left of it, and its shift. */
const correctedBias = ({ checkpoint, facts }: Run, { name, bias }: PlannedLinear): TensorSource =>
  shiftedBias(checkpoint.tensors.get(bias!.name)!, fromBase64(facts.get(name)!.correction!.shift)!)

/** [out], as the output holds it. */
export const storedBias = (run: Run, linear: PlannedLinear): Float32Array => {
  const dtype = linear.bias!.dtype as WeightDtype
  return toFloat32(castSource(correctedBias(run, linear), dtype).read(), dtype)
}

/** Puts them into the output, once all linears of blocks are finished. */
export const passCorrectedBiases = (run: Run): void => {
  for (const linear of run.plan.linears) if (linear.bias) run.output.pass(linear.bias.name, correctedBias(run, linear))
}
