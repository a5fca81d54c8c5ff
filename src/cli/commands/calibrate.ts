import { availableParallelism } from 'node:os'
import { collectImportances } from '../../calibrate/importances.ts'
import { sampleCalibration } from '../../calibrate/sample.ts'
import { createEngine } from '../../engine/ort/session.ts'
import { QuantizeError } from '../../errors.ts'
import { loadModel } from '../../evaluate/load-model.ts'
import { writeImatrix } from '../../gguf/imatrix.ts'
import { ggufWeight } from '../../gguf/names.ts'
import { nodeFiles } from '../../io/files.ts'
import type { CalibrateOptions } from '../parse.ts'
import type { Ui } from '../ui.ts'

/** @throws QuantizeError as the calibration pass; unsupported for an architecture whose weights llama.cpp calls otherwise */
export const calibrate = async (options: CalibrateOptions, ui: Ui): Promise<void> => {
  const { imatrixOutput: output, calib, samples, seqLen, seed } = options
  if (!options.overwrite && nodeFiles.stat(output))
    throw new QuantizeError('bad-option', `${output} exists; give another -o, or --overwrite to replace it`)
  const { checkpoint, plain: model, read } = loadModel(options.model, nodeFiles)
  try {
    const recipe = { text: calib, samples, seqLen, seed }
    const { windows, report } = await sampleCalibration(checkpoint, model, recipe, nodeFiles)
    const engine = await createEngine(options.threads ?? availableParallelism())
    try {
      const stages = model.blocks.reduce((sum, block) => sum + block.stages.length, 0)
      let done = 0
      ui.report({ kind: 'start', totalWork: stages, title: 'calibrate' })
      const found = await collectImportances(engine, model, windows, read, {
        onChunk(block, stage, chunk, of) {
          ui.signal.throwIfAborted()
          if (stage && chunk === of) ui.report({ kind: 'work', done: ++done, label: block.name })
        },
      })
      ui.report({ kind: 'end' })
      const entries = [...found].map(([name, importances]) => [ggufWeight(name), importances] as const)
      const imatrix = { entries: new Map(entries), datasets: [report.text], chunks: windows.length, chunkSize: seqLen }
      writeImatrix(output, imatrix, nodeFiles)
      const { tokensUsed: tokens } = report
      if (options.json) ui.json({ output, entries: entries.length, tokens, calibration: report })
      else ui.print(`importances of ${entries.length} weights from ${tokens} tokens, written to ${output}`)
    } finally {
      await engine.release()
    }
  } finally {
    checkpoint.close()
  }
}
