/** Runs a plan. This is the story of the program: each call is one step, and the folders say which. */
import { join } from 'node:path'
import { calibratedPass } from './calibrate/pass.ts'
import { type CalibrationSample, sampleCalibration } from './calibrate/sample.ts'
import { finiteSource } from './checkpoint/finite-source.ts'
import { modelName } from './checkpoint/model-name.ts'
import { readWeight } from './checkpoint/read-weight.ts'
import type { AssembleFacts, Checkpoint, Configs, Stage } from './contracts.ts'
import { convertRounding } from './convert-rounding.ts'
import { type DecodedCheckpoint, isDecoded } from './decoded-checkpoint.ts'
import { dequantize } from './dequantize.ts'
import { matrixOf } from './engine/kernel/panels.ts'
import { createKernels, type Kernels } from './engine/kernel/pool.ts'
import { createEngine } from './engine/ort/session.ts'
import { createSpill } from './engine/ort/spill.ts'
import { QuantizeError } from './errors.ts'
import { type Weightings, weightingsOf } from './gguf/weightings.ts'
import { filesIn, hashFile } from './io/whole-file.ts'
import {
  earlierInputs,
  type FinishedFacts,
  type Journal,
  openJournal,
  partialFolder,
  takePublished,
} from './journal.ts'
import { withLegacyRope } from './model/legacy-rope.ts'
import { type Output, openOutput } from './output.ts'
import type { Plan, PlannedLinear } from './plan.ts'
import { createMeter, type Meter } from './progress-meter.ts'
import { absMaxOf } from './quantize/fit-tensor.ts'
import { feedbackRounding, plainRounding, type Rounded, type StageRounding } from './quantize/stage-rounding.ts'
import { buildReport } from './report/build.ts'
import { parseReport, reportJson } from './report/json.ts'
import type { Report } from './report/schema.ts'
import type { RunContext } from './run-context.ts'
import { checkUnchanged, type Inputs, inputsOf } from './run-inputs.ts'
import { type OutputMeter, readStored, storeLinear } from './store-linear.ts'
import { toolName, version } from './version.ts'

export const reportName = 'quantize-report.json'
export const maxReportBytes = 2 ** 26

/** The model's config.json; undefined for a lone file. */
type SourceConfig = Readonly<Record<string, unknown>> | undefined

/** One run: its task, its means, and what it has finished. */
interface Run {
  readonly plan: Plan
  readonly checkpoint: Checkpoint
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
  /** By name. */
  readonly facts: Map<string, FinishedFacts>
}

/** What to do with what stands where the output goes. */
export interface OutputRules {
  /** Replace an output that exists. */
  readonly overwrite: boolean
  /** Go on with a run that was cut off. */
  readonly resume: boolean
}

/**
 * Quantizes `checkpoint` by `plan` into the folder `output`, which must be free (or is replaced at the very end, with `overwrite`): it
 * appears under that name only when it is complete. A run that was cut off goes on where it was, and gives the same bytes.
 * @throws QuantizeError; what is finished then stays in `<output>.partial` for the next run
 */
export const runPlan = async (
  plan: Plan,
  checkpoint: Checkpoint,
  sourceConfig: SourceConfig,
  output: string,
  { overwrite, resume }: OutputRules,
  context: RunContext,
): Promise<Report> => {
  const { files, clock, progress } = context
  const began = clock.now()
  const { calibration } = plan.recipe
  const sample = calibration && (await sampleCalibration(checkpoint, plan.model!, calibration, files))
  const inputs = inputsOf(plan, checkpoint, sample, resume ? earlierInputs(output, files) : undefined, files)
  if (resume && takePublished(output, inputs, files)) {
    progress({ kind: 'note', text: 'an earlier run had finished it' })
    return parseReport(files.readText(join(output, reportName), maxReportBytes), join(output, reportName))
  }
  const journal = openJournal(output, inputs, resume, files, clock)
  try {
    const report = await fillFolder(plan, checkpoint, sourceConfig, inputs, sample, began, journal, context)
    checkUnchanged(inputs, checkpoint, files)
    context.signal.throwIfAborted()
    journal.publish(overwrite)
    progress({ kind: 'end' })
    return report
  } catch (error) {
    const finished = journal.leave(!(error instanceof QuantizeError && error.lasting))
    if (finished > 0)
      progress({
        kind: 'note',
        text: `${finished} finished tensors and linears are in ${partialFolder(output)}: the same command goes on from there`,
      })
    throw error
  }
}

/** Writes all files of the output, the report last. */
const fillFolder = async (
  plan: Plan,
  checkpoint: Checkpoint,
  sourceConfig: SourceConfig,
  inputs: Inputs,
  sample: CalibrationSample | undefined,
  began: number,
  journal: Journal,
  context: RunContext,
): Promise<Report> => {
  const { files, clock, threads, progress } = context
  const configs = plan.format.assemble(sourceConfig && amended(sourceConfig, plan), assembleFacts(plan))
  const output = openOutput(
    plan,
    checkpoint,
    { name: modelName(checkpoint, files), config: sourceConfig },
    journal,
    context,
  )
  let kernels: Kernels | undefined
  try {
    const { imatrix } = plan.recipe
    const schemes = plan.linears.map(({ scheme }) => scheme)
    const weightings = imatrix === null ? undefined : weightingsOf(imatrix, schemes, files)
    kernels = await createKernels(threads)
    const run: Run = {
      plan,
      checkpoint,
      context,
      kernels,
      output,
      meter: createMeter(plan, sample, progress),
      temporary: journal.temporary,
      weightings,
      outputConfigs: parseConfigs(configs),
      largest: new Map(),
      facts: new Map(),
    }
    try {
      for (const { name } of plan.passed) output.pass(name)
      if (sample) await quantizeCalibrated(run, sample)
      await quantizeDataFree(run)
    } finally {
      output.flush()
    }
    output.complete(configs)
    const report = reportOf(run, inputs, sample, (clock.now() - began) / 1000)
    files.writeText(join(output.folder, reportName), reportJson(report))
    return report
  } finally {
    output.close()
    await kernels?.close()
  }
}

/** All linears that need no calibration or lie outside the blocks. */
const quantizeDataFree = async (run: Run): Promise<void> => {
  const { kernels, plan, checkpoint, weightings } = run
  const rounding =
    plan.recipe.method === 'convert'
      ? convertRounding(kernels, plan, checkpoint as DecodedCheckpoint)
      : plainRounding(kernels, plan.recipe, weightings?.of)
  const todo = plan.linears.filter(linear => !run.facts.has(linear.name) && !takeFinished(run, linear))
  // a decoded source keeps one linear in memory: with two at a time it would decode each twice
  const ahead = !isDecoded(checkpoint)
  const begin = (linear: PlannedLinear | undefined) => linear && roundLinear(run, linear, rounding)
  let next = ahead ? begin(todo[0]) : undefined
  try {
    for (const [i, linear] of todo.entries()) {
      const rounded = await (next ?? begin(linear)!)
      next = ahead ? begin(todo[i + 1]) : undefined
      next?.catch(() => {}) // it is thrown when its turn comes
      await finishLinear(run, linear, rounding, rounded)
    }
  } finally {
    await next?.catch(() => {})
  }
}

/** Whether an earlier run finished the linear: then its facts are taken over. */
const takeFinished = ({ output, facts, meter }: Run, linear: PlannedLinear): boolean => {
  const record = output.earlier.get(linear.name)
  if (!record) return false
  if (!facts.has(linear.name)) meter.earlier(linear)
  facts.set(linear.name, record.facts!)
  return true
}

/** Block by block, stage by stage: the tap's statistics, then its linears, then on through the quantized ones. */
const quantizeCalibrated = async (run: Run, { windows }: CalibrationSample): Promise<void> => {
  const { plan, checkpoint, context, kernels, meter } = run
  const planned = new Map(plan.linears.map(linear => [linear.name, linear]))
  const linearsOf = (stage: Stage): readonly PlannedLinear[] =>
    stage.linears.map(({ name }) => planned.get(name)).filter(linear => linear !== undefined)
  if (plan.linears.filter(linear => takeFinished(run, linear)).length === plan.linears.length) return
  const engine = await createEngine(context.threads)
  const spill = context.memory.spillBytes > 0 ? createSpill(run.temporary, context.files) : undefined
  try {
    await calibratedPass(
      engine,
      plan.model!,
      windows,
      view => readWeight(checkpoint, view).data,
      {
        known(stage) {
          const linears = linearsOf(stage)
          if (!linears.every(({ name }) => run.output.earlier.has(name))) return undefined
          return new Map(linears.map(linear => [linear.name, () => storedWeight(run, linear)]))
        },
        async visit({ stage, block, statistics, zeroed }) {
          const replaced = new Map<string, () => Float32Array>()
          const linears = linearsOf(stage)
          const outputs = { engine, statistics, zeroed, keepDecoded: context.memory.keepDecoded }
          const tap = `${block.name}: input of ${stage.linears[0].name}`
          const rounding = await feedbackRounding(engine, kernels, statistics, plan.recipe, tap)
          for (const linear of linears) {
            const kept = takeFinished(run, linear)
              ? undefined
              : await finishLinear(run, linear, rounding, await roundLinear(run, linear, rounding), outputs)
            replaced.set(linear.name, () => kept ?? storedWeight(run, linear))
          }
          rounding.release()
          return replaced
        },
      },
      {
        spill,
        drift: plan.recipe.correct > 0,
        zeroNonFinite: plan.recipe.nonfinite === 'zero',
        onChunk(block, stage, _done, of) {
          context.signal.throwIfAborted()
          meter.chunk(block, stage, of)
        },
      },
    )
  } finally {
    spill?.close()
    await engine.release()
  }
}

/** [out, in], as the output holds it. */
const storedWeight = ({ plan, output, outputConfigs }: Run, linear: PlannedLinear): Float32Array =>
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

interface Begun extends Rounded {
  readonly began: number
}

/** Chooses the codes of one linear. */
const roundLinear = async (run: Run, linear: PlannedLinear, rounding: StageRounding): Promise<Begun> => {
  const { plan, checkpoint, context } = run
  context.signal.throwIfAborted()
  const began = context.clock.now()
  const stored = checkpoint.tensors.get(linear.weight.tensor)!
  const source = plan.recipe.nonfinite === 'zero' ? finiteSource(stored).source : stored
  const shared = await sharedLargest(run, linear)
  return { began, ...(await rounding.round(source, linear.scheme, linear.storage, shared)) }
}

/** Puts a linear in its place in the output, and finds out how good it is. Returns the weights [out, in] that the output holds, if the meter keeps them. */
const finishLinear = async (
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
    finite?.source ?? stored,
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

const parseConfigs = (configs: ReadonlyMap<string, string | Uint8Array>): Configs =>
  Object.fromEntries(
    [...configs].flatMap(([name, content]) => (typeof content === 'string' ? [[name, JSON.parse(content)]] : [])),
  )

/** The source's config without what it says of its own quantization, and with what the run changes: a head of its own, the dtype of what stays unquantized. */
const amended = (source: NonNullable<SourceConfig>, { untied, recipe: { restDtype } }: Plan): SourceConfig => {
  const { quantization_config, quantization, compression_config, ...config } = withLegacyRope(source)
  const names = { BF16: 'bfloat16', F16: 'float16', F32: 'float32' } as const
  const dtypeKey = Object.hasOwn(config, 'dtype') ? 'dtype' : 'torch_dtype'
  return {
    ...config,
    ...(untied ? { tie_word_embeddings: false } : {}),
    ...(restDtype ? { [dtypeKey]: names[restDtype] } : {}),
  }
}

const assembleFacts = ({ recipe, linears, kept, passed, model, untied }: Plan): AssembleFacts => ({
  linears: linears.map(({ scheme }) => scheme),
  kept: kept.map(({ name }) => name),
  rest: passed.map(({ stored }) => stored),
  model,
  untied,
  method: recipe.method,
  grid: recipe.grid,
  bits: recipe.bits,
  symmetric: recipe.symmetric,
  group: recipe.group === 'implied' ? 'channel' : recipe.group,
  actOrder: recipe.actOrder,
  damp: recipe.damp,
  clip: recipe.clip,
  version,
  shardBytes: recipe.shardBytes,
})

const reportOf = (
  { plan, checkpoint, context, output, weightings, facts }: Run,
  inputs: Inputs,
  sample: CalibrationSample | undefined,
  seconds: number,
): Report => {
  const { files, clock } = context
  const { folder, left } = output
  const { bytesBefore, bytesAfter, weights } = plan.totals
  return buildReport({
    tool: { name: toolName, version },
    recipe: JSON.parse(JSON.stringify(plan.recipe)),
    source: {
      path: checkpoint.path,
      files: [...checkpoint.files],
      tensors: checkpoint.tensors.size,
      bytes: bytesBefore,
      sha256: Object.fromEntries(Object.entries(inputs.model).map(([name, { sha256 }]) => [name, sha256])),
    },
    calibration: sample?.report ?? null,
    linears: plan.linears.map(({ name, weight, scheme, tensors }) => ({
      scheme,
      tensor: weight.tensor,
      tensors,
      ...facts.get(name)!,
    })),
    kept: plan.passed.map(({ name, reason }) => ({ name, reason })),
    dropped: [...plan.dropped],
    warnings: [
      ...plan.warnings,
      ...output.notes,
      ...(weightings?.notes ?? []),
      ...(left.length > 0 ? [`not copied into the output: ${left.join(', ')}`] : []),
    ],
    run: { weights, bytesBefore, bytesAfter, seconds, peakMemoryBytes: clock.peakMemoryBytes() },
    outputs: Object.fromEntries(filesIn(folder, files).map(name => [name, hashFile(join(folder, name), files)])),
  })
}
