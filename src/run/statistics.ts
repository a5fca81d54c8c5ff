/** Collects the statistics of a model into a file: one pass over it as it is. A run that was cut off goes on with the taps it lacks. */
import { calibratedPass, type PassOptions } from '../calibrate/pass.ts'
import type { CalibrationSample } from '../calibrate/sample.ts'
import {
  createStatisticsWriter,
  type StatisticsFacts,
  tapName,
  tapsOf,
  tapTensors,
} from '../calibrate/statistics-file.ts'
import type { StatisticName } from '../contracts.ts'
import type { Engine } from '../engine/ort/session.ts'
import type { LoadedModel } from '../evaluate/load-model.ts'
import type { RunContext } from './context.ts'
import { type Inputs, statisticsInputs, weightHashes } from './inputs.ts'
import { earlierInputs, type FinishedPart, type Journal, statisticsRun, takePublished } from './journal.ts'
import { type OutputRules, runInJournal, takeOver } from './resume.ts'

type StatisticsContext = Pick<RunContext, 'files' | 'clock' | 'progress' | 'signal'>

/**
 * The file appears under its name when it is whole.
 * @returns how many taps it holds
 * @throws QuantizeError as calibratedPass, and as a journal; exhausted when the disk is full. What is finished then stays for the next run
 */
export const runStatistics = async (
  engine: Engine,
  loaded: LoadedModel,
  sample: CalibrationSample,
  output: string,
  rules: OutputRules,
  pass: PassOptions,
  context: StatisticsContext,
): Promise<number> => {
  const { files, progress } = context
  const inputs = statisticsInputs(
    loaded.checkpoint,
    sample,
    rules.resume ? earlierInputs(output, files) : undefined,
    files,
  )
  if (rules.resume && takePublished(output, inputs, files)) {
    progress({ kind: 'note', text: 'an earlier run had finished it' })
    return tapsOf(loaded.plain).size
  }
  const { checkpoint } = loaded
  await runInJournal({ kind: statisticsRun, output, inputs, checkpoint, rules }, context, journal =>
    fillFile(engine, loaded, sample, inputs, journal, pass, context),
  )
  return tapsOf(loaded.plain).size
}

const fillFile = async (
  engine: Engine,
  { checkpoint, plain: model, read }: LoadedModel,
  { windows, report }: CalibrationSample,
  inputs: Inputs,
  journal: Journal<FinishedPart>,
  pass: PassOptions,
  { files, progress }: StatisticsContext,
): Promise<void> => {
  const taps = tapsOf(model)
  const counts = Object.fromEntries([...taps.keys()].map(tap => [tap, report.tokensUsed]))
  const facts: StatisticsFacts = { statistics: 1, model: weightHashes(inputs, checkpoint), texts: [report], counts }
  const writer = createStatisticsWriter(journal.output, facts, taps, files)
  journal.makesDurable(writer.sync)
  try {
    const earlier = takeOver(journal, ({ name }) => (taps.has(name) ? tapTensors(name) : undefined), writer, progress)
    try {
      if (earlier.size < taps.size)
        await calibratedPass(
          engine,
          model,
          windows,
          read,
          {
            known: stage => (earlier.has(tapName(stage)) ? new Map() : undefined),
            async visit({ stage, statistics }) {
              const name = tapName(stage)
              journal.finish({ name, tensors: writer.write(name, statistics) })
              return new Map()
            },
          },
          { ...pass, collect: new Set<StatisticName>(['channels', 'histogram']) },
        )
    } finally {
      journal.flush()
    }
    writer.finish()
  } finally {
    writer.close()
  }
}
