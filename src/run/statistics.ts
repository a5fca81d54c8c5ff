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
import type { OutputRules } from '../pipeline.ts'
import type { RunContext } from './context.ts'
import { checkUnchanged, type Inputs, statisticsInputs, weightHashes } from './inputs.ts'
import { earlierInputs, type FinishedPart, type Journal, openJournal, statisticsRun, takePublished } from './journal.ts'
import { leaveRun, takeOver } from './resume.ts'

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
  { overwrite, resume }: OutputRules,
  pass: PassOptions,
  context: StatisticsContext,
): Promise<number> => {
  const { files, clock, progress, signal } = context
  const inputs = statisticsInputs(loaded.checkpoint, sample, resume ? earlierInputs(output, files) : undefined, files)
  if (resume && takePublished(output, inputs, files)) {
    progress({ kind: 'note', text: 'an earlier run had finished it' })
    return tapsOf(loaded.plain).size
  }
  const journal = openJournal(statisticsRun, output, inputs, resume, files, clock)
  try {
    await fillFile(engine, loaded, sample, inputs, journal, pass, context)
    checkUnchanged(inputs, loaded.checkpoint, files)
    signal.throwIfAborted()
    journal.publish(overwrite)
  } catch (error) {
    leaveRun(journal, output, error, progress)
    throw error
  }
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
