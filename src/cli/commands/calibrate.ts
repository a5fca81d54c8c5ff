import { availableParallelism } from 'node:os'
import { extname, join } from 'node:path'
import { collectImportances } from '../../calibrate/importances.ts'
import { type CalibrationSample, sampleCalibration } from '../../calibrate/sample.ts'
import { mergeStatistics, openStatistics } from '../../calibrate/statistics-file.ts'
import { createEngine } from '../../engine/ort/session.ts'
import { QuantizeError } from '../../errors.ts'
import { type LoadedModel, loadModel } from '../../evaluate/load-model.ts'
import { writeImatrix } from '../../gguf/imatrix.ts'
import { ggufWeight } from '../../gguf/names.ts'
import { nodeClock } from '../../io/clock.ts'
import { nodeFiles } from '../../io/files.ts'
import { isPublished } from '../../run/journal.ts'
import { runStatistics } from '../../run/statistics.ts'
import type { CalibrateOptions } from '../parse.ts'
import type { Ui } from '../ui.ts'

/** What is written, by the ending of its name. */
const endings = ['.safetensors', '.gguf', '.dat'] as const

/**
 * @throws QuantizeError as the calibration pass; unsupported for an architecture whose weights llama.cpp calls otherwise; bad-option for
 *   a name that says nothing known
 */
export const calibrate = async (options: CalibrateOptions, ui: Ui): Promise<void> => {
  const { statisticsOutput: output } = options
  const ending = endings.find(known => extname(output) === known)
  if (!ending)
    throw new QuantizeError(
      'bad-option',
      `${output}: the name must end in .safetensors (statistics for --stats), or in .gguf or .dat (an importance matrix for llama.cpp)`,
    )
  checkOutput(options)
  if (!options.resume && ending !== '.safetensors')
    throw new QuantizeError(
      'bad-option',
      `--no-resume has no effect on ${output}: an importance matrix is made in one go; leave it out`,
    )
  if (options.merge.length > 0) return merge(options, ui)
  const loaded = loadModel(options.model, nodeFiles)
  try {
    await collect(loaded, ending, options, ui)
  } finally {
    loaded.checkpoint.close()
  }
}

/** @throws QuantizeError bad-option when something stands where the output goes */
const checkOutput = ({ statisticsOutput: output, overwrite }: CalibrateOptions): void => {
  const there = nodeFiles.stat(output)
  if (!there) return
  if (!overwrite && !isPublished(output, nodeFiles))
    throw new QuantizeError('bad-option', `${output} exists; give another -o, or --overwrite to replace it`)
  if (there.kind !== 'file') throw new QuantizeError('bad-option', `${output} is no file; give another -o`)
}

const collect = async (
  loaded: LoadedModel,
  ending: (typeof endings)[number],
  options: CalibrateOptions,
  ui: Ui,
): Promise<void> => {
  const { checkpoint, plain: model, read } = loaded
  const { statisticsOutput: output, calib, samples, seqLen, seed } = options
  const weights = checkpoint.files.map(name => nodeFiles.realPath(join(checkpoint.folder, name)))
  if (nodeFiles.stat(output) && weights.includes(nodeFiles.realPath(output)))
    throw new QuantizeError('bad-option', `${output} holds the model that is read; give another -o`)
  const sample = await sampleCalibration(checkpoint, model, { text: calib, samples, seqLen, seed }, nodeFiles)
  const engine = await createEngine(options.threads ?? availableParallelism())
  try {
    const stages = model.blocks.reduce((sum, block) => sum + block.stages.length, 0)
    let done = 0
    ui.report({ kind: 'start', totalWork: stages, title: 'calibrate' })
    const pass: Parameters<typeof collectImportances>[4] = {
      onChunk(block, stage, chunk, of) {
        ui.signal.throwIfAborted()
        if (stage && chunk === of) ui.report({ kind: 'work', done: ++done, label: block.name })
      },
    }
    const context = { files: nodeFiles, clock: nodeClock, progress: ui.report, signal: ui.signal }
    const entries =
      ending === '.safetensors'
        ? await runStatistics(engine, loaded, sample, output, options, pass, context)
        : await writeImportances(await collectImportances(engine, model, sample.windows, read, pass), sample, options)
    ui.report({ kind: 'end' })
    const { tokensUsed: tokens } = sample.report
    if (options.json) ui.json({ output, entries, tokens, calibration: sample.report })
    else {
      const what = ending === '.safetensors' ? `statistics of ${entries} inputs` : `importances of ${entries} weights`
      ui.print(`${what} from ${tokens} tokens, written to ${output}`)
    }
  } finally {
    await engine.release()
  }
}

/** Returns how many entries it has. */
const writeImportances = async (
  found: Awaited<ReturnType<typeof collectImportances>>,
  { windows, report }: CalibrationSample,
  { statisticsOutput: output, seqLen }: CalibrateOptions,
): Promise<number> => {
  const entries = [...found].map(([name, importances]) => [ggufWeight(name), importances] as const)
  const imatrix = { entries: new Map(entries), datasets: [report.text], chunks: windows.length, chunkSize: seqLen }
  writeImatrix(output, imatrix, nodeFiles)
  return entries.length
}

/** `calibrate --merge a b -o c`: no model is run. */
const merge = (options: CalibrateOptions, ui: Ui): void => {
  const { statisticsOutput: output, merge: others, model: last } = options
  const ran = (['calib', 'samples', 'seqLen', 'seed', 'threads', 'resume'] as const).find(key =>
    options.explicit.has(key),
  )
  if (ran)
    throw new QuantizeError('bad-option', `--merge adds up files and runs no model: leave the options of a run out`)
  if (extname(output) !== '.safetensors')
    throw new QuantizeError('bad-option', `${output}: --merge writes statistics; the name must end in .safetensors`)
  const inputs: ReturnType<typeof openStatistics>[] = []
  try {
    for (const path of [...others, last]) inputs.push(openStatistics(path, nodeFiles))
    const { texts } = mergeStatistics(inputs, output, nodeFiles)
    const tokens = texts.reduce((sum, { tokensUsed }) => sum + tokensUsed, 0)
    if (options.json) ui.json({ output, entries: inputs[0].taps.size, tokens, texts })
    else ui.print(`statistics from ${tokens} tokens of ${texts.length} runs, written to ${output}`)
  } finally {
    for (const input of inputs) input.close()
  }
}
