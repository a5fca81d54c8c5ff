/** Runs a plan. This is the story of the program: each call is one step, and the folders say which. */
import { join } from 'node:path'
import { sampleCalibration } from './calibrate/sample.ts'
import { openStatisticsOf } from './calibrate/statistics-file.ts'
import { modelName } from './checkpoint/model-name.ts'
import type { Checkpoint } from './contracts.ts'
import { createKernels, type Kernels } from './engine/kernel/pool.ts'
import { weightingsOf } from './gguf/weightings.ts'
import type { Plan } from './plan.ts'
import { maxReportBytes, parseReport, reportJson, reportName } from './report/json.ts'
import type { Report } from './report/schema.ts'
import { passCorrectedBiases } from './run/bias-correction.ts'
import { type Known, quantizeKnown } from './run/calibrated.ts'
import { configsOf, parseConfigs, type SourceConfig } from './run/configs.ts'
import type { RunContext } from './run/context.ts'
import { quantizeDataFree } from './run/data-free.ts'
import { type Inputs, inputsOf, weightHashes } from './run/inputs.ts'
import { earlierInputs, type Finished, type Journal, modelRun, takePublished } from './run/journal.ts'
import type { Run } from './run/linear.ts'
import { openOutput } from './run/output.ts'
import { createMeter } from './run/progress-meter.ts'
import { reportOf } from './run/report.ts'
import { type OutputRules, runInJournal } from './run/resume.ts'
import { waitingTensors } from './run/transform.ts'
import { scaledCheckpoint } from './transform/scaled-checkpoint.ts'

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
  const configs = configsOf(plan, sourceConfig)
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
