import type { ModelFiles } from '../checkpoint/beside.ts'
import type { Model } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import type { CalibrationRecipe } from '../recipe.ts'
import type { CalibrationReport } from '../report/schema.ts'
import { readCorpus } from '../text/corpus.ts'
import { encodeDocuments } from '../text/tokenizer.ts'
import { sampleWindows } from './windows.ts'

export interface CalibrationSample {
  /** `samples` arrays of `seqLen` token ids. */
  readonly windows: readonly Int32Array[]
  readonly report: CalibrationReport
}

/**
 * Text → tokens → windows.
 * @param checkpoint whose tokenizer.json counts
 * @throws QuantizeError bad-input: no tokenizer, unreadable or too little text; bad-option: windows longer than the model's positions
 */
export const sampleCalibration = async (
  checkpoint: ModelFiles,
  model: Model,
  recipe: CalibrationRecipe,
  files: Files,
): Promise<CalibrationSample> => {
  const { text, samples, seqLen, seed } = recipe
  if (seqLen > model.maxPositions)
    throw new QuantizeError(
      'bad-option',
      `--seq-len ${seqLen}: the model takes at most ${model.maxPositions} positions`,
    )
  const corpus = readCorpus(text, files)
  const { windows, report } = sampleWindows(
    await encodeDocuments(checkpoint, corpus.documents, model.vocabulary, files),
    {
      samples,
      seqLen,
      seed,
    },
  )
  const { documents, samplesUsed, tokensUsed, tokensDropped } = report
  return {
    windows,
    report: {
      text: corpus.name,
      sha256: corpus.sha256,
      documents,
      samplesRequested: samples,
      samplesUsed,
      tokensUsed,
      tokensDropped,
      seqLen,
      seed,
    },
  }
}
