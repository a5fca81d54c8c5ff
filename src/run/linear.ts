/** One linear of a run: its codes chosen, stored, read back and measured. */
import { finiteSource } from '../checkpoint/finite-source.ts'
import type { Checkpoint, Configs, TensorSource } from '../contracts.ts'
import { dequantize } from '../dequantize.ts'
import { toFloat32 } from '../dtype/convert.ts'
import { matrixOf } from '../engine/kernel/panels.ts'
import type { Kernels } from '../engine/kernel/pool.ts'
import type { Weightings } from '../gguf/weightings.ts'
import type { PlannedLinear } from '../plan/linears.ts'
import type { Plan } from '../plan.ts'
import { absMaxOf } from '../quantize/fit-tensor.ts'
import type { Rounded, StageRounding } from '../quantize/stage-rounding.ts'
import type { TransformReport } from '../report/schema.ts'
import type { ScaledCheckpoint } from '../transform/scaled-checkpoint.ts'
import type { RunContext } from './context.ts'
import type { FinishedFacts } from './journal.ts'
import type { Output } from './output.ts'
import type { Meter } from './progress-meter.ts'
import { type OutputMeter, readStored, storeLinear } from './store-linear.ts'

/** One run: its task, its means, and what it has finished. */
export interface Run {
  readonly plan: Plan
  /** Its linears, by name. */
  readonly planned: ReadonlyMap<string, PlannedLinear>
  readonly source: Checkpoint
  /** What is quantized: the source, with what the transform has made of it. */
  readonly checkpoint: Checkpoint
  /** The same, where there is a transform. */
  readonly scaled: ScaledCheckpoint | undefined
  readonly context: RunContext
  readonly kernels: Kernels
  readonly output: Output
  readonly meter: Meter
  /** Free, for a file that is of no use after the run. */
  readonly temporary: string
  /** Of an importance matrix. */
  readonly weightings: Weightings | undefined
  /** The output's JSON files, as its readers see them. */
  readonly outputConfigs: Configs
  /** Largest weights under common scales, by the names of their linears. */
  readonly largest: Map<string, number>
  /** Of the taps whose transform is fitted, in order. */
  readonly transforms: TransformReport[]
  /** By name. */
  readonly facts: Map<string, FinishedFacts>
}

/** Whether an earlier run finished the linear: then its facts are taken over. */
export const takeFinished = ({ output, facts, meter }: Run, linear: PlannedLinear): boolean => {
  const record = output.earlier.get(linear.name)
  if (!record) return false
  if (!facts.has(linear.name)) meter.earlier(linear)
  facts.set(linear.name, record.facts!)
  return true
}

/** [out, in], as the output holds it. */
export const storedWeight = ({ plan, output, outputConfigs }: Run, linear: PlannedLinear): Float32Array =>
  dequantize(readStored(linear, plan.format, output.writer, outputConfigs))

/** The largest weight of all linears under whose common scale this one stands; undefined where it stands alone. */
const sharedLargest = async (
  { plan, checkpoint, kernels, largest }: Run,
  { sharedWith }: PlannedLinear,
): Promise<number | undefined> => {
  if (sharedWith.length === 0) return undefined
  const key = sharedWith.join('\n')
  if (!largest.has(key)) {
    let most = 0
    for (const { name, weight, scheme } of plan.linears.filter(({ name }) => sharedWith.includes(name))) {
      const stored = checkpoint.tensors.get(weight.tensor)!
      const source = plan.recipe.nonfinite === 'zero' ? finiteSource(stored).source : stored
      most = Math.max(most, await absMaxOf(kernels, { ...matrixOf(source, scheme.out, scheme.in), name }))
    }
    largest.set(key, most)
  }
  return largest.get(key)
}

/** The weights of a linear as they are quantized. */
const sourceOf = ({ plan, checkpoint }: Run, { weight }: PlannedLinear): TensorSource => {
  const stored = checkpoint.tensors.get(weight.tensor)!
  return plan.recipe.nonfinite === 'zero' ? finiteSource(stored).source : stored
}

/** [out, in] */
export const sourceWeights = (run: Run, linear: PlannedLinear): Float32Array => {
  const source = sourceOf(run, linear)
  return toFloat32(source.read(), source.dtype)
}

export interface Begun extends Rounded {
  readonly began: number
}

/** Chooses the codes of one linear. */
export const roundLinear = async (run: Run, linear: PlannedLinear, rounding: StageRounding): Promise<Begun> => {
  const { context } = run
  context.signal.throwIfAborted()
  const began = context.clock.now()
  const source = sourceOf(run, linear)
  const shared = await sharedLargest(run, linear)
  return { began, ...(await rounding.round(source, linear.scheme, linear.storage, shared)) }
}

/** Puts a linear in its place in the output, and finds out how good it is. Returns the weights [out, in] that the output holds, if the meter keeps them. */
export const finishLinear = async (
  run: Run,
  linear: PlannedLinear,
  rounding: StageRounding,
  { quantized, method, fallback, began }: Begun,
  meter?: OutputMeter,
): Promise<Float32Array | undefined> => {
  const { plan, checkpoint, context, kernels, output, outputConfigs, facts } = run
  const { name } = linear
  const stored = checkpoint.tensors.get(linear.weight.tensor)!
  const finite = plan.recipe.nonfinite === 'zero' ? finiteSource(stored) : undefined // each weight is read once here: they are counted
  const { decoded, sha256, ...measured } = await storeLinear(
    kernels,
    { weight: finite?.source ?? stored, bias: linear.bias && checkpoint.tensors.get(linear.bias.name) },
    linear,
    quantized,
    plan.format,
    output.writer,
    outputConfigs,
    meter,
  )
  const { damp, deadChannels } = rounding
  const seconds = (context.clock.now() - began) / 1000
  const zeroed = { zeroedWeights: finite?.zeroed() ?? 0, zeroedActivations: meter?.zeroed ?? 0 }
  const found = { method, fallback, damp, deadChannels, ...measured, ...zeroed, seconds }
  facts.set(name, found)
  output.finish({ name, tensors: sha256, facts: found })
  run.meter.linear(linear, {
    method,
    sqnrDb: measured.error.sqnrDb,
    relativeOutputError: measured.relativeOutputError,
    seconds,
  })
  return decoded
}
