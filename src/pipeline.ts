/** Runs a plan. This is the story of the program: each call is one step, and the folders say which. */
import { join } from 'node:path'
import { sampleCalibration } from './calibrate/sample.ts'
import { openStatisticsOf } from './calibrate/statistics-file.ts'
import { modelName } from './checkpoint/model-name.ts'
import type { AssembleFacts, Checkpoint, Configs } from './contracts.ts'
import { createKernels, type Kernels } from './engine/kernel/pool.ts'
import { weightingsOf } from './gguf/weightings.ts'
import { filesIn, hashFile } from './io/whole-file.ts'
import { withLegacyRope } from './model/legacy-rope.ts'
import type { Plan } from './plan.ts'
import { buildReport } from './report/build.ts'
import { parseReport, reportJson } from './report/json.ts'
import type { Report } from './report/schema.ts'
import { passCorrectedBiases } from './run/bias-correction.ts'
import { type Known, quantizeKnown } from './run/calibrated.ts'
import type { RunContext } from './run/context.ts'
import { quantizeDataFree } from './run/data-free.ts'
import { type Inputs, inputsOf, weightHashes } from './run/inputs.ts'
import { earlierInputs, type Finished, type Journal, modelRun, takePublished } from './run/journal.ts'
import type { Run } from './run/linear.ts'
import { openOutput } from './run/output.ts'
import { createMeter } from './run/progress-meter.ts'
import { type OutputRules, runInJournal } from './run/resume.ts'
import { waitingTensors } from './run/transform.ts'
import { scaledCheckpoint } from './transform/scaled-checkpoint.ts'
import { toolName, version } from './version.ts'

export const reportName = 'quantize-report.json'
export const maxReportBytes = 2 ** 26

/** The model's config.json; undefined for a lone file. */
type SourceConfig = Readonly<Record<string, unknown>> | undefined

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
  rules: OutputRules,
  context: RunContext,
): Promise<Report> => {
  const { files, clock, progress } = context
  const began = clock.now()
  const { calibration } = plan.recipe
  const sample = calibration && (await sampleCalibration(checkpoint, plan.model!, calibration, files))
  const inputs = inputsOf(plan, checkpoint, sample, rules.resume ? earlierInputs(output, files) : undefined, files)
  if (rules.resume && takePublished(output, inputs, files)) {
    progress({ kind: 'note', text: 'an earlier run had finished it' })
    return parseReport(files.readText(join(output, reportName), maxReportBytes), join(output, reportName))
  }
  const stats =
    plan.recipe.stats === null
      ? undefined
      : openStatisticsOf(plan.recipe.stats, plan.model!, weightHashes(inputs, checkpoint), files)
  try {
    const report = await runInJournal({ kind: modelRun, output, inputs, checkpoint, rules }, context, journal =>
      fillFolder(plan, checkpoint, sourceConfig, inputs, { sample, stats }, began, journal, context),
    )
    progress({ kind: 'end' })
    return report
  } finally {
    stats?.close()
  }
}

/** Writes all files of the output, the report last. */
const fillFolder = async (
  plan: Plan,
  checkpoint: Checkpoint,
  sourceConfig: SourceConfig,
  inputs: Inputs,
  { sample, stats }: Known,
  began: number,
  journal: Journal<Finished>,
  context: RunContext,
): Promise<Report> => {
  const { files, clock, threads, progress } = context
  const scaled = plan.recipe.transform === 'none' ? undefined : scaledCheckpoint(checkpoint)
  const configs = plan.format.assemble(sourceConfig && amended(sourceConfig, plan), assembleFacts(plan))
  const output = openOutput(
    plan,
    scaled ?? checkpoint,
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
      planned: new Map(plan.linears.map(linear => [linear.name, linear])),
      source: checkpoint,
      checkpoint: scaled ?? checkpoint,
      scaled,
      context,
      kernels,
      output,
      meter: createMeter(plan, sample, progress),
      temporary: journal.temporary,
      weightings,
      outputConfigs: parseConfigs(configs),
      largest: new Map(),
      transforms: [],
      facts: new Map(),
    }
    try {
      const waiting = waitingTensors(run)
      for (const { name } of plan.passed) if (!waiting.has(name)) output.pass(name)
      await quantizeKnown(run, { sample, stats })
      passCorrectedBiases(run)
      await quantizeDataFree(run)
    } finally {
      output.flush()
    }
    output.complete(configs)
    const report = reportOf(run, inputs, { sample, stats }, (clock.now() - began) / 1000)
    files.writeText(join(output.folder, reportName), reportJson(report))
    return report
  } finally {
    output.close()
    await kernels?.close()
  }
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
  { plan, source: checkpoint, context, output, weightings, transforms, facts }: Run,
  inputs: Inputs,
  { sample, stats }: Known,
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
    statistics:
      sample || stats
        ? {
            of: stats || plan.recipe.rounding === 'nearest' ? 'unquantized model' : 'quantized prefix',
            file: stats?.path ?? null,
            sha256: inputs.stats,
            texts: stats?.facts.texts ?? [],
          }
        : null,
    transforms,
    linears: plan.linears.map(({ name, weight, scheme, tensors }) => ({
      scheme,
      tensor: weight.tensor,
      tensors,
      ...facts.get(name)!,
    })),
    kept: plan.passed
      .filter(({ correctedWith }) => correctedWith === undefined)
      .map(({ name, reason }) => ({ name, reason })),
    corrected: plan.linears.flatMap(({ name: linear, bias }) =>
      bias ? [{ name: bias.name, linear, shift: facts.get(linear)!.correction!.shift }] : [],
    ),
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
