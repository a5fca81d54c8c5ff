import { availableParallelism } from 'node:os'
import { createEngine } from '../../engine/ort/session.ts'
import { type Evaluation, evaluate, evaluationWindows } from '../../evaluate/evaluate.ts'
import { type LoadedModel, loadModel } from '../../evaluate/load-model.ts'
import { nodeFiles } from '../../io/files.ts'
import { readCorpus } from '../../text/corpus.ts'
import { encodeDocuments } from '../../text/tokenizer.ts'
import type { EvalOptions } from '../parse.ts'
import type { Ui } from '../ui.ts'

/** Text of eval is one stream: the documents of a .jsonl follow each other. */
const tokensOf = async ({ checkpoint, model }: LoadedModel, text: string): Promise<Int32Array> => {
  const stream = readCorpus(text, nodeFiles).documents.join('\n\n')
  const [ids] = await encodeDocuments(checkpoint, [stream], model.vocabulary, nodeFiles)
  return ids
}

export const evalModel = async (options: EvalOptions, ui: Ui): Promise<void> => {
  const opened: LoadedModel[] = []
  const open = (path: string): LoadedModel => {
    const loaded = loadModel(path, nodeFiles)
    opened.push(loaded)
    return loaded
  }
  const engine = await createEngine(options.threads ?? availableParallelism())
  try {
    const loaded = open(options.model)
    const reference = options.reference === undefined ? undefined : open(options.reference)
    const ids = await tokensOf(loaded, options.text)
    const windows = evaluationWindows(ids, options.seqLen, options.windows)
    if (windows.length < options.windows)
      ui.warn(`the text holds ${windows.length} windows of ${options.seqLen} tokens, not ${options.windows}`)
    const blocks = opened.reduce((sum, { model }) => sum + model.blocks.length, 0)
    let done = 0
    ui.report({ kind: 'start', totalWork: blocks, title: 'eval' })
    const evaluation = await evaluate(engine, loaded, windows, reference, {
      onBlock(block, of) {
        ui.signal.throwIfAborted()
        ui.report({ kind: 'work', done: ++done, label: `block ${block} of ${of}` })
      },
    })
    ui.report({ kind: 'end' })
    if (options.json)
      ui.json({ model: options.model, format: loaded.format ?? null, text: options.text, ...evaluation })
    else ui.data(evaluationText(evaluation))
  } finally {
    await engine.release()
    for (const { checkpoint } of opened) checkpoint.close()
  }
}

const evaluationText = ({ perplexity, tokens, windows, seqLen, reference }: Evaluation): string =>
  [
    `perplexity ${perplexity.toFixed(4)} (${tokens} tokens, ${windows} windows of ${seqLen})`,
    ...(reference
      ? [
          `reference perplexity ${reference.perplexity.toFixed(4)}`,
          `mean KL divergence ${reference.meanKl.toFixed(5)} nats a token`,
          `top-1 agreement ${(100 * reference.topAgreement).toFixed(2)} %`,
        ]
      : []),
  ].join('\n')
