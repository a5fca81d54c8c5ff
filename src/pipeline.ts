/** Runs a plan. This is the story of the program: each call is one step, and the folders say which. */
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { calibratedPass } from './calibrate/pass.ts'
import { type CalibrationSample, sampleCalibration } from './calibrate/sample.ts'
import { folderFiles } from './checkpoint/carry.ts'
import { finiteSource } from './checkpoint/finite-source.ts'
import { readWeight } from './checkpoint/read-weight.ts'
import {
  createShardWriter,
  hashTensor,
  planShards,
  type ShardPlan,
  type ShardWriter,
} from './checkpoint/write-safetensors.ts'
import type { Checkpoint, Stage } from './contracts.ts'
import { createKernels, type Kernels } from './engine/kernel/pool.ts'
import { createEngine } from './engine/ort/session.ts'
import { createSpill } from './engine/ort/spill.ts'
import { QuantizeError } from './errors.ts'
import type { Files } from './io/files.ts'
import { printable } from './io/printable.ts'
import { copyFile, hashFile } from './io/whole-file.ts'
import {
  earlierInputs,
  type Finished,
  type FinishedFacts,
  type Journal,
  openJournal,
  partialFolder,
  takePublished,
} from './journal.ts'
import type { Plan, PlannedLinear } from './plan.ts'
import { createMeter, type Meter } from './progress-meter.ts'
import { dequantize } from './quantize/dequantize.ts'
import { feedbackRounding, plainRounding, type StageRounding } from './quantize/stage-rounding.ts'
import { buildReport } from './report/build.ts'
import { parseReport, reportJson } from './report/json.ts'
import type { Report } from './report/schema.ts'
import type { RunContext } from './run-context.ts'
import { checkUnchanged, type Inputs, inputsOf } from './run-inputs.ts'
import { type OutputMeter, readStored, storeLinear } from './store-linear.ts'
import { toolName, version } from './version.ts'

export const reportName = 'quantize-report.json'
export const maxReportBytes = 2 ** 28

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
  readonly journal: Journal
  /** config.json (or quantize_config.json) of the output, as its readers see it. */
  readonly outputConfig: unknown
  /** What an earlier run finished and is still in its place, by name. */
  readonly earlier: ReadonlyMap<string, Finished>
  /** By name. */
  readonly facts: Map<string, FinishedFacts>
  /** SHA-256 of each tensor written, by name. */
  readonly sha256: Map<string, string>
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
  const sample = calibration && sampleCalibration(checkpoint.folder, plan.model!, calibration, files)
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
  const { folder } = journal
  const shards = planShards(plan.outputs, plan.recipe.shardBytes)
  const carried = sourceConfig ? folderFiles(checkpoint.folder, checkpoint.files, files) : { carried: [], left: [] }
  clearExcept(folder, new Set(shards.map(({ file }) => file)), files)
  checkSpace(folder, shards, checkpoint, carried.carried, context)
  const configs = plan.format.assemble(sourceConfig, assembleFacts(plan))
  const writer = createShardWriter(folder, shards, files)
  let kernels: Kernels | undefined
  try {
    journal.makesDurable(writer.sync)
    kernels = await createKernels(threads)
    const earlier = takeEarlier(plan, journal, writer, progress)
    const run: Run = {
      plan,
      checkpoint,
      context,
      kernels,
      writer,
      meter: createMeter(plan, sample, progress),
      journal,
      outputConfig: JSON.parse((configs.get('config.json') ?? configs.get('quantize_config.json'))!),
      earlier,
      facts: new Map(),
      sha256: new Map([...earlier.values()].flatMap(({ tensors }) => Object.entries(tensors))),
    }
    try {
      for (const { name } of plan.passed) passTensor(run, name)
      if (sample) await quantizeCalibrated(run, sample)
      else await quantizeDataFree(run)
    } finally {
      journal.flush()
    }
    writer.finish()
    checkWritten(run)
    for (const [name, text] of configs) files.writeText(join(folder, name), text)
    for (const name of carried.carried) copyFile(join(checkpoint.folder, name), join(folder, name), files)
    const report = reportOf(run, inputs, sample, carried.left, folder, (clock.now() - began) / 1000)
    files.writeText(join(folder, reportName), reportJson(report))
    return report
  } finally {
    writer.close()
    await kernels?.close()
  }
}

/** Removes what an earlier run wrote beside its weights: it is written again. */
const clearExcept = (folder: string, keep: ReadonlySet<string>, files: Files): void => {
  for (const name of files.list(folder)) if (!keep.has(name)) files.remove(join(folder, name))
}

/** Space that configs, the index and the report may take. */
const textBytes = 2 ** 20

/** @throws QuantizeError exhausted when the output cannot fit where it goes */
const checkSpace = (
  folder: string,
  shards: readonly ShardPlan[],
  checkpoint: Checkpoint,
  carried: readonly string[],
  { files, memory }: RunContext,
): void => {
  const sizeOf = (path: string): number => files.stat(path)?.bytes ?? 0
  // what an earlier run wrote may have holes: only what lacks for certain is asked for
  const shardBytes = shards.map(({ file, bytes }) => Math.max(0, bytes - sizeOf(join(folder, file))))
  const needed = [...shardBytes, ...carried.map(name => sizeOf(join(checkpoint.folder, name)))].reduce(
    (sum, bytes) => sum + bytes,
    textBytes + memory.spillBytes,
  )
  const free = files.freeBytes(folder)
  if (free < needed)
    throw new QuantizeError(
      'exhausted',
      `${printable(folder)}: the output takes ${needed} more bytes, and ${free} are free; free some space or choose another place`,
    )
}

/** What the journal says is finished, as far as its data is still what was written. */
const takeEarlier = (
  plan: Plan,
  { earlier }: Journal,
  writer: ShardWriter,
  progress: RunContext['progress'],
): ReadonlyMap<string, Finished> => {
  const planned = new Map<string, readonly string[]>()
  for (const { name, tensors } of plan.linears)
    planned.set(
      name,
      tensors.map(tensor => tensor.name),
    )
  for (const { name } of plan.passed) planned.set(name, [name])
  const linears = new Set(plan.linears.map(({ name }) => name))
  const good = [...earlier.values()].filter(({ name, tensors, facts }) => {
    const expected = planned.get(name)
    if (!expected || (facts !== null) !== linears.has(name)) return false
    return expected.length === Object.keys(tensors).length && expected.every(part => writer.adopt(part, tensors[part]))
  })
  if (earlier.size > 0)
    progress({ kind: 'note', text: `going on: ${good.length} tensors and linears were finished by an earlier run` })
  if (good.length < earlier.size)
    progress({ kind: 'note', text: `${earlier.size - good.length} of them are damaged and done again` })
  return new Map(good.map(record => [record.name, record]))
}

/** Reads every tensor back. @throws QuantizeError exhausted when one is not what was written */
const checkWritten = ({ plan, writer, sha256 }: Run): void => {
  for (const { name } of plan.outputs) {
    const source = writer.read(name)
    if (hashTensor(source) !== sha256.get(name))
      throw new QuantizeError(
        'exhausted',
        `${printable(source.file)}: tensor ${printable(name)} reads back differently from what was written: the disk or the memory fails`,
      )
  }
}

/** Takes a finished tensor or linear down in the journal. */
const finish = ({ journal, sha256 }: Run, record: Finished): void => {
  for (const [name, sum] of Object.entries(record.tensors)) sha256.set(name, sum)
  journal.finish(record)
}

/** The bytes of a tensor as they are, in pieces. */
const passTensor = (run: Run, name: string): void => {
  if (run.earlier.has(name)) return
  const source = run.checkpoint.tensors.get(name)!
  const pieceBytes = 8 * 2 ** 20
  const buffer = new Uint8Array(Math.min(pieceBytes, source.bytes))
  const hash = createHash('sha256')
  for (let start = 0; start < source.bytes; start += pieceBytes) {
    const end = Math.min(source.bytes, start + pieceBytes)
    const piece = source.read(start, end, buffer.subarray(0, end - start))
    run.writer.write(name, piece, start)
    hash.update(piece)
  }
  finish(run, { name, tensors: { [name]: hash.digest('hex') }, facts: null })
}

const quantizeDataFree = async (run: Run): Promise<void> => {
  const rounding = plainRounding(run.kernels, run.plan.recipe)
  for (const linear of run.plan.linears) if (!takeFinished(run, linear)) await quantizeLinear(run, linear, rounding)
}

/** Whether an earlier run finished the linear: then its facts are taken over. */
const takeFinished = ({ earlier, facts, meter }: Run, linear: PlannedLinear): boolean => {
  const record = earlier.get(linear.name)
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
  const spill = context.memory.spillBytes > 0 ? createSpill(run.journal.temporary, context.files) : undefined
  try {
    await calibratedPass(
      engine,
      plan.model!,
      windows,
      view => readWeight(checkpoint, view).data,
      {
        known(stage) {
          const linears = linearsOf(stage)
          if (!linears.every(({ name }) => run.earlier.has(name))) return undefined
          return new Map(linears.map(linear => [linear.name, () => storedWeight(run, linear)]))
        },
        async visit({ stage, block, statistics, zeroed }) {
          const replaced = new Map<string, () => Float32Array>()
          const linears = linearsOf(stage)
          const outputs = { engine, statistics, zeroed, keepDecoded: context.memory.keepDecoded }
          const tap = `${block.name}: input of ${stage.linears[0].name}`
          const rounding = await feedbackRounding(engine, kernels, statistics, plan.recipe, tap)
          for (const linear of linears) {
            const kept = takeFinished(run, linear) ? undefined : await quantizeLinear(run, linear, rounding, outputs)
            replaced.set(linear.name, () => kept ?? storedWeight(run, linear))
          }
          rounding.release()
          return replaced
        },
      },
      {
        spill,
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
const storedWeight = ({ plan, writer, outputConfig }: Run, linear: PlannedLinear): Float32Array =>
  dequantize(readStored(linear, plan.format, writer, outputConfig))

/** One linear: codes, their place in the output, and how good they are. Returns the weights [out, in] that the output holds, if the meter keeps them. */
const quantizeLinear = async (
  run: Run,
  linear: PlannedLinear,
  rounding: StageRounding,
  meter?: OutputMeter,
): Promise<Float32Array | undefined> => {
  const { plan, checkpoint, context, kernels, writer, outputConfig, facts } = run
  context.signal.throwIfAborted()
  const began = context.clock.now()
  const { name, scheme, storage } = linear
  const stored = checkpoint.tensors.get(linear.weight.tensor)!
  const zeroes = plan.recipe.nonfinite === 'zero'
  const finite = zeroes ? finiteSource(stored) : undefined // storing reads each weight once: there they are counted
  const { quantized, method, fallback } = await rounding.round(
    zeroes ? finiteSource(stored).source : stored,
    scheme,
    storage,
  )
  const { decoded, sha256, ...measured } = await storeLinear(
    kernels,
    finite?.source ?? stored,
    linear,
    quantized,
    plan.format,
    writer,
    outputConfig,
    meter,
  )
  const { damp, deadChannels } = rounding
  const seconds = (context.clock.now() - began) / 1000
  const zeroed = { zeroedWeights: finite?.zeroed() ?? 0, zeroedActivations: meter?.zeroed ?? 0 }
  const found = { method, fallback, damp, deadChannels, ...measured, ...zeroed, seconds }
  facts.set(name, found)
  finish(run, { name, tensors: sha256, facts: found })
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
  { plan, checkpoint, context, facts }: Run,
  inputs: Inputs,
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
      sha256: Object.fromEntries(Object.entries(inputs.model).map(([name, { sha256 }]) => [name, sha256])),
    },
    calibration: sample?.report ?? null,
    linears: plan.linears.map(({ name, scheme, tensors }) => ({ scheme, tensors, ...facts.get(name)! })),
    kept: [...plan.passed],
    dropped: [],
    warnings: [...plan.warnings, ...(left.length > 0 ? [`not copied into the output: ${left.join(', ')}`] : [])],
    run: { weights, bytesBefore, bytesAfter, seconds, peakMemoryBytes: clock.peakMemoryBytes() },
    outputs: Object.fromEntries(files.list(folder).map(name => [name, hashFile(join(folder, name), files)])),
  })
}
