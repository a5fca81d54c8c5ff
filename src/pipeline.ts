/** Runs a plan. This is the story of the program: each call is one step, and the folders say which. */
import { join } from 'node:path'
import { calibratedPass } from './calibrate/pass.ts'
import { type CalibrationSample, sampleCalibration } from './calibrate/sample.ts'
import { folderFiles } from './checkpoint/carry.ts'
import { readWeight } from './checkpoint/read-weight.ts'
import { createShardWriter, planShards, publishFolder, type ShardWriter } from './checkpoint/write-safetensors.ts'
import type { Checkpoint, TensorSource } from './contracts.ts'
import { createKernels, type Kernels } from './engine/kernel/pool.ts'
import { createEngine } from './engine/ort/session.ts'
import { copyFile, hashFile } from './io/whole-file.ts'
import type { Plan, PlannedLinear } from './plan.ts'
import { createMeter, type Meter } from './progress-meter.ts'
import { feedbackRounding, plainRounding, type StageRounding } from './quantize/stage-rounding.ts'
import { buildReport, type LinearFacts } from './report/build.ts'
import { reportJson } from './report/json.ts'
import type { Report } from './report/schema.ts'
import type { RunContext } from './run-context.ts'
import { createScratch, type OutputMeter, type Scratch, storeLinear } from './store-linear.ts'
import { toolName, version } from './version.ts'

export const reportName = 'quantize-report.json'

/** The model's config.json; undefined for a lone file. */
type SourceConfig = Readonly<Record<string, unknown>> | undefined

/** One run: its task, its means, and what it has finished. */
interface Run {
  readonly plan: Plan
  readonly checkpoint: Checkpoint
  readonly context: RunContext
  readonly kernels: Kernels
  readonly writer: ShardWriter
  readonly meter: Meter
  /** config.json (or quantize_config.json) of the output, as its readers see it. */
  readonly outputConfig: unknown
  readonly scratch: Scratch
  readonly finished: LinearFacts[]
}

/**
 * Quantizes `checkpoint` by `plan` into the folder `output`, which must be free (or is replaced at the very end, with `overwrite`): it
 * appears under that name only when it is complete.
 * @throws QuantizeError; nothing is left behind then
 */
export const runPlan = async (
  plan: Plan,
  checkpoint: Checkpoint,
  sourceConfig: SourceConfig,
  output: string,
  overwrite: boolean,
  context: RunContext,
): Promise<Report> => {
  const { files } = context
  const partial = `${output}.partial`
  files.remove(partial)
  try {
    files.makeFolder(partial)
    const report = await fillFolder(plan, checkpoint, sourceConfig, partial, context)
    if (overwrite) files.remove(output)
    publishFolder(partial, output, files)
    context.progress({ kind: 'end' })
    return report
  } catch (error) {
    files.remove(partial)
    throw error
  }
}

/** Writes all files of the output, the report last. */
const fillFolder = async (
  plan: Plan,
  checkpoint: Checkpoint,
  sourceConfig: SourceConfig,
  folder: string,
  context: RunContext,
): Promise<Report> => {
  const { files, clock, threads, progress } = context
  const began = clock.now()
  const { calibration, shardBytes } = plan.recipe
  const sample = calibration && sampleCalibration(checkpoint.folder, plan.model!, calibration, files)
  const configs = plan.format.assemble(sourceConfig, assembleFacts(plan))
  const writer = createShardWriter(folder, planShards(plan.outputs, shardBytes), files)
  let kernels: Kernels | undefined
  try {
    kernels = await createKernels(threads)
    const meter = createMeter(plan, sample, progress)
    const outputConfig = JSON.parse((configs.get('config.json') ?? configs.get('quantize_config.json'))!)
    const scratch = createScratch()
    const run: Run = { plan, checkpoint, context, kernels, writer, meter, outputConfig, scratch, finished: [] }
    for (const { name } of plan.passed) passTensor(checkpoint.tensors.get(name)!, writer)
    if (sample) await quantizeCalibrated(run, sample)
    else await quantizeDataFree(run)
    writer.finish()
    for (const [name, text] of configs) files.writeText(join(folder, name), text)
    const left = sourceConfig ? carryFiles(checkpoint, folder, context) : []
    const report = reportOf(run, sample, left, folder, (clock.now() - began) / 1000)
    files.writeText(join(folder, reportName), reportJson(report))
    return report
  } finally {
    writer.close()
    await kernels?.close()
  }
}

/** Copies the model's other files; returns what stays behind. */
const carryFiles = ({ folder, files: weights }: Checkpoint, to: string, { files }: RunContext): readonly string[] => {
  const { carried, left } = folderFiles(folder, weights, files)
  for (const name of carried) copyFile(join(folder, name), join(to, name), files)
  return left
}

/** The bytes of a tensor as they are, in pieces. */
const passTensor = (source: TensorSource, writer: ShardWriter): void => {
  const pieceBytes = 8 * 2 ** 20
  const buffer = new Uint8Array(Math.min(pieceBytes, source.bytes))
  for (let start = 0; start < source.bytes; start += pieceBytes) {
    const end = Math.min(source.bytes, start + pieceBytes)
    writer.write(source.name, source.read(start, end, buffer.subarray(0, end - start)), start)
  }
}

const quantizeDataFree = async (run: Run): Promise<void> => {
  const rounding = plainRounding(run.kernels, run.plan.recipe)
  for (const linear of run.plan.linears) await quantizeLinear(run, linear, rounding)
}

/** Block by block, stage by stage: the tap's statistics, then its linears, then on through the quantized ones. */
const quantizeCalibrated = async (run: Run, { windows }: CalibrationSample): Promise<void> => {
  const { plan, checkpoint, context, kernels, meter } = run
  const planned = new Map(plan.linears.map(linear => [linear.name, linear]))
  const engine = await createEngine(context.threads)
  try {
    await calibratedPass(
      engine,
      plan.model!,
      windows,
      view => readWeight(checkpoint, view).data,
      async ({ stage, block, statistics }) => {
        const replaced = new Map<string, Float32Array>()
        const linears = stage.linears.map(({ name }) => planned.get(name)).filter(linear => linear !== undefined)
        if (linears.length === 0) return replaced
        const tap = `${block.name}: input of ${stage.linears[0].name}`
        const rounding = await feedbackRounding(engine, kernels, statistics, plan.recipe, tap)
        for (const linear of linears)
          replaced.set(linear.name, (await quantizeLinear(run, linear, rounding, { engine, statistics }))!)
        rounding.release()
        return replaced
      },
      {
        onChunk(block, stage, _done, of) {
          context.signal.throwIfAborted()
          meter.chunk(block, stage, of)
        },
      },
    )
  } finally {
    await engine.release()
  }
}

/** One linear: codes, their place in the output, and how good they are. Returns the weights [out, in] that the output holds, if there is a meter. */
const quantizeLinear = async (
  run: Run,
  linear: PlannedLinear,
  rounding: StageRounding,
  meter?: OutputMeter,
): Promise<Float32Array | undefined> => {
  const { plan, checkpoint, context, kernels, writer, outputConfig, scratch, finished } = run
  context.signal.throwIfAborted()
  const began = context.clock.now()
  const { scheme, storage, tensors } = linear
  const source = checkpoint.tensors.get(linear.weight.tensor)!
  const { quantized, method, fallback } = await rounding.round(source, scheme, storage)
  const { decoded, ...measured } = await storeLinear(
    kernels,
    source,
    linear,
    quantized,
    plan.format,
    writer,
    outputConfig,
    scratch,
    meter,
  )
  const { damp, deadChannels } = rounding
  const seconds = (context.clock.now() - began) / 1000
  finished.push({ scheme, tensors, method, fallback, damp, deadChannels, ...measured, seconds })
  run.meter.linear(linear, {
    method,
    sqnrDb: measured.error.sqnrDb,
    relativeOutputError: measured.relativeOutputError,
    seconds,
  })
  return decoded
}

const assembleFacts = ({ recipe, linears, kept }: Plan) => ({
  linears: linears.map(({ scheme }) => scheme),
  kept: kept.map(({ name }) => name),
  method: recipe.method,
  bits: recipe.bits,
  symmetric: recipe.symmetric,
  group: recipe.group,
  actOrder: recipe.actOrder,
  damp: recipe.damp,
  clip: recipe.clip,
  version,
})

const reportOf = (
  { plan, checkpoint, context, finished }: Run,
  sample: CalibrationSample | undefined,
  left: readonly string[],
  folder: string,
  seconds: number,
): Report => {
  const { files, clock } = context
  const { bytesBefore, bytesAfter, weights } = plan.totals
  return buildReport({
    tool: { name: toolName, version },
    recipe: JSON.parse(JSON.stringify(plan.recipe)),
    source: {
      path: checkpoint.path,
      files: [...checkpoint.files],
      tensors: checkpoint.tensors.size,
      bytes: bytesBefore,
    },
    calibration: sample?.report ?? null,
    linears: finished,
    kept: [...plan.passed],
    dropped: [],
    warnings: [...plan.warnings, ...(left.length > 0 ? [`not copied into the output: ${left.join(', ')}`] : [])],
    run: { weights, bytesBefore, bytesAfter, seconds, peakMemoryBytes: clock.peakMemoryBytes() },
    outputs: Object.fromEntries(files.list(folder).map(name => [name, hashFile(join(folder, name), files)])),
  })
}
