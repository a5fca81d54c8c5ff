import { availableParallelism } from 'node:os'
import { hashesOfWeights, openStatisticsOf, tapName } from '../../calibrate/statistics-file.ts'
import type { ActivationScheme, Linear, StaticObserver } from '../../contracts.ts'
import { createEngine } from '../../engine/ort/session.ts'
import {
  type Asked,
  type AskedScheme,
  checkActivations,
  schemesOf,
  withScheme,
} from '../../evaluate/activation-scheme.ts'
import { type Evaluation, evaluate, evaluationWindows } from '../../evaluate/evaluate.ts'
import { type LoadedModel, loadModel } from '../../evaluate/load-model.ts'
import { nodeFiles } from '../../io/files.ts'
import { withStaticScale } from '../../quantize/static-scale.ts'
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

/** A static scheme with the scale that the statistics of each linear's input show. @throws QuantizeError bad-input for statistics of another model */
const settling = (
  { model, checkpoint }: LoadedModel,
  scheme: ActivationScheme,
  observer: StaticObserver,
  path: string,
): ((linear: Linear) => ActivationScheme) => {
  const file = openStatisticsOf(path, model, hashesOfWeights(checkpoint, nodeFiles), nodeFiles)
  try {
    const settled = new Map<string, ActivationScheme>()
    for (const stage of model.blocks.flatMap(block => block.stages)) {
      const own = withStaticScale(scheme, file.read(tapName(stage)), observer, 'F32')
      for (const { name } of stage.linears) settled.set(name, own)
    }
    return ({ name }) => settled.get(name)!
  } finally {
    file.close()
  }
}

/** The model under --activations, and what that sets aside. @throws QuantizeError unsupported for a scheme that cannot be */
const asAsked = (
  loaded: LoadedModel,
  { activationScheme: asked, outliers, stats }: Pick<EvalOptions, 'activationScheme' | 'outliers' | 'stats'>,
): { readonly loaded: LoadedModel; readonly warning?: string } => {
  const { model, warning }: Asked =
    asked === undefined ? { model: loaded.model } : underScheme(loaded, asked, outliers, stats)
  checkActivations(model)
  return { loaded: { ...loaded, model }, warning }
}

const underScheme = (
  loaded: LoadedModel,
  asked: AskedScheme | 'none',
  outliers: number | undefined,
  stats: string | undefined,
): Asked => {
  if (asked === 'none') return withScheme(loaded.model, asked)
  const { observer, ...given } = asked
  const scheme = outliers ? { ...given, outliers } : given
  return withScheme(loaded.model, scheme, observer && settling(loaded, scheme, observer, stats!))
}

export const evalModel = async (options: EvalOptions, ui: Ui): Promise<void> => {
  const opened: LoadedModel[] = []
  const open = (path: string): LoadedModel => {
    const loaded = loadModel(path, nodeFiles)
    opened.push(loaded)
    return loaded
  }
  const warnings: string[] = []
  const warn = (text: string): void => {
    warnings.push(text)
    ui.warn(text)
  }
  const engine = await createEngine(options.threads ?? availableParallelism())
  try {
    const { loaded, warning } = asAsked(open(options.model), options)
    if (warning) warn(warning)
    const reference = options.reference === undefined ? undefined : open(options.reference)
    if (reference) checkActivations(reference.model)
    const ids = await tokensOf(loaded, options.text)
    const windows = evaluationWindows(ids, options.seqLen, options.windows)
    if (windows.length < options.windows)
      warn(`the text holds ${windows.length} windows of ${options.seqLen} tokens, not ${options.windows}`)
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
    const activations = schemesOf(loaded.model)
    const { model, text } = options
    if (options.json) ui.json({ model, format: loaded.format ?? null, activations, text, ...evaluation, warnings })
    else ui.data(evaluationText(evaluation, activations))
  } finally {
    await engine.release()
    for (const { checkpoint } of opened) checkpoint.close()
  }
}

const evaluationText = (
  { perplexity, tokens, windows, seqLen, reference }: Evaluation,
  activations: readonly string[],
): string =>
  [
    `perplexity ${perplexity.toFixed(4)} (${tokens} tokens, ${windows} windows of ${seqLen})`,
    ...(activations.length > 0 ? [`activations ${activations.join(', ')}`] : []),
    ...(reference
      ? [
          `reference perplexity ${reference.perplexity.toFixed(4)}`,
          `mean KL divergence ${reference.meanKl.toFixed(5)} nats a token`,
          `top-1 agreement ${(100 * reference.topAgreement).toFixed(2)} %`,
        ]
      : []),
  ].join('\n')
