/** Perplexity of a model on a text and, with a reference, how far its predictions are from the reference's (docs/cli.md, eval). */
import type { ActivationScheme, Linear, Model } from '../contracts.ts'
import { type Activations, embed } from '../engine/ort/activations.ts'
import { runBlock, runFinal } from '../engine/ort/forward.ts'
import { compareHeads, negativeLogLikelihood, type Scored } from '../engine/ort/head.ts'
import { quantizedRows } from '../engine/ort/quantized-activations.ts'
import type { Engine } from '../engine/ort/session.ts'
import { QuantizeError } from '../errors.ts'
import type { LoadedModel } from './load-model.ts'

export interface Evaluation {
  /** exp of the mean negative log-likelihood. */
  readonly perplexity: number
  /** Mean negative log-likelihood, nats a token. */
  readonly meanNll: number
  /** Tokens scored: seqLen − 1 of each window. */
  readonly tokens: number
  readonly windows: number
  readonly seqLen: number
  readonly reference?: {
    readonly perplexity: number
    /** Mean of KL(reference ‖ model), nats a token. */
    readonly meanKl: number
    /** Share of tokens after which both models rank the same token first. */
    readonly topAgreement: number
  }
}

export interface EvaluationEvents {
  /** Block `done` of `of` has been run. */
  readonly onBlock: (done: number, of: number) => void
}

/**
 * Windows of a text: non-overlapping, from its start, without special tokens.
 * @throws QuantizeError bad-input when the text holds none
 */
export const evaluationWindows = (ids: Int32Array, seqLen: number, windows: number): Int32Array[] => {
  const available = Math.floor(ids.length / seqLen)
  if (available === 0)
    throw new QuantizeError(
      'bad-input',
      `the text has ${ids.length} tokens, fewer than one window of ${seqLen}; give more text or a smaller --seq-len`,
    )
  return Array.from({ length: Math.min(windows, available) }, (_, i) => ids.slice(i * seqLen, (i + 1) * seqLen))
}

/** What the head reads at every position but each window's last, [windows · (seqLen − 1), hidden], block by block. */
const finalHidden = async (
  engine: Engine,
  { model, read }: LoadedModel,
  windows: readonly Int32Array[],
  { onBlock }: EvaluationEvents,
): Promise<Float32Array> => {
  const activations = embed(model, read, windows)
  for (const [index, block] of model.blocks.entries()) {
    await runBlock(engine, block, activations, linear => read(linear.weight), read)
    onBlock(index + 1, model.blocks.length)
  }
  await runFinal(engine, model, activations, read)
  if (model.head.activations) await quantizeFinal(engine, activations, model.head.activations)
  return withoutLast(activations)
}

const quantizeFinal = async (
  engine: Engine,
  { chunks, width, seqLen }: Activations,
  scheme: ActivationScheme,
): Promise<void> => {
  for (const chunk of chunks) chunk.hidden = await quantizedRows(engine, chunk.hidden, width, scheme, seqLen)
}

const withoutLast = ({ chunks, seqLen, width }: Activations): Float32Array => {
  const sequences = chunks.reduce((sum, chunk) => sum + chunk.sequences, 0)
  const hidden = new Float32Array(sequences * (seqLen - 1) * width)
  let at = 0
  for (const chunk of chunks)
    for (let i = 0; i < chunk.sequences; i++) {
      hidden.set(chunk.hidden.subarray(i * seqLen * width, ((i + 1) * seqLen - 1) * width), at)
      at += (seqLen - 1) * width
    }
  return hidden
}

const scored = ({ model, read }: LoadedModel, hidden: Float32Array): Scored => ({
  head: headOf(model, model.head, read),
  hidden,
})

const headOf = ({ vocabulary, hidden }: Model, { weight, bias }: Linear, read: LoadedModel['read']) => ({
  vocabulary,
  hidden,
  weight: read(weight),
  bias: bias && read(bias),
})

const mean = (values: ArrayLike<number>): number => {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]
  return sum / values.length
}

/**
 * Scores positions 2 … seqLen of each window.
 * @param reference compared with, on the same tokens; both vocabularies must agree
 * @throws QuantizeError bad-input for token ids outside the vocabulary, bad-option for windows longer than the model's positions
 */
export const evaluate = async (
  engine: Engine,
  loaded: LoadedModel,
  windows: readonly Int32Array[],
  reference: LoadedModel | undefined,
  events: EvaluationEvents,
): Promise<Evaluation> => {
  const seqLen = windows[0].length
  const targets = Int32Array.from(windows.flatMap(window => [...window.subarray(1)]))
  const hidden = await finalHidden(engine, loaded, windows, events)
  const counts = { tokens: targets.length, windows: windows.length, seqLen }
  const result = (nll: Float32Array) => ({ perplexity: Math.exp(mean(nll)), meanNll: mean(nll), ...counts })
  if (!reference) return result(await negativeLogLikelihood(engine, scored(loaded, hidden), targets))
  if (reference.model.vocabulary !== loaded.model.vocabulary)
    throw new QuantizeError(
      'bad-input',
      `the reference has ${reference.model.vocabulary} tokens, the model ${loaded.model.vocabulary}; they cannot be compared`,
    )
  const referenceHidden = await finalHidden(engine, reference, windows, events)
  const compared = await compareHeads(engine, scored(reference, referenceHidden), scored(loaded, hidden), targets)
  return {
    ...result(compared.quantizedNll),
    reference: {
      perplexity: Math.exp(mean(compared.referenceNll)),
      meanKl: mean(compared.kl),
      topAgreement: mean(compared.agree),
    },
  }
}
