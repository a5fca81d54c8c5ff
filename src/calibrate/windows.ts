import { QuantizeError } from '../errors.ts'
import { below, drawIndices, randomFrom } from './random.ts'

/** What was asked for, and what the text gave: for the report. */
export interface WindowsReport {
  readonly documents: number
  readonly tokensAvailable: number
  /** Windows that the text holds; `samplesUsed` of them were drawn. */
  readonly windowsAvailable: number
  readonly samplesUsed: number
  readonly tokensUsed: number
  /** tokensAvailable − tokensUsed. */
  readonly tokensDropped: number
}

export interface SampledWindows {
  /** `samples` arrays of `seqLen` ids. */
  readonly windows: readonly Int32Array[]
  readonly report: WindowsReport
}

export interface WindowOptions {
  /** Windows wanted. */
  readonly samples: number
  /** Tokens a window. */
  readonly seqLen: number
  /** An integer in [0, 2^32). */
  readonly seed: number
}

/**
 * Random windows of a corpus, by this rule:
 * 1. The documents are put in a random order and their tokens strung together, with nothing between them. (One document: nothing to order.)
 * 2. The stream of n tokens holds k = ⌊n / seqLen⌋ windows that do not overlap. They start at a random token in [0, n − k·seqLen], one behind another,
 *    so k does not depend on the seed.
 * 3. `samples` of the k are drawn without replacement and kept in the order drawn: a run with fewer samples uses the first of them.
 * All draws come from one generator (random.ts), in this order.
 *
 * @param documents the token ids of each document
 * @throws QuantizeError bad-input when there are fewer windows than samples; bad-option when an option is not a positive integer
 */
export function sampleWindows(documents: readonly Int32Array[], options: WindowOptions): SampledWindows {
  const { samples, seqLen, seed } = options
  requirePositive('--samples', samples)
  requirePositive('--seq-len', seqLen)
  const random = randomFrom(seed)
  const stream = shuffledStream(documents, drawIndices(random, documents.length, documents.length))
  const available = Math.floor(stream.length / seqLen)
  if (available < samples) throw tooLittle(stream.length, available, options)
  const start = below(random, stream.length - available * seqLen + 1)
  const windows = Array.from(drawIndices(random, available, samples), index =>
    stream.slice(start + index * seqLen, start + (index + 1) * seqLen),
  )
  return { windows, report: reportOf(documents.length, stream.length, available, options) }
}

function requirePositive(name: string, value: number): void {
  if (!Number.isInteger(value) || value < 1) {
    throw new QuantizeError('bad-option', `${name} ${value}: give a positive integer`)
  }
}

function shuffledStream(documents: readonly Int32Array[], order: Uint32Array): Int32Array {
  let length = 0
  for (const document of documents) length += document.length
  const stream = new Int32Array(length)
  let position = 0
  for (const index of order) {
    stream.set(documents[index], position)
    position += documents[index].length
  }
  return stream
}

function tooLittle(tokens: number, available: number, { samples, seqLen }: WindowOptions): QuantizeError {
  const shorter = Math.floor(tokens / samples)
  const remedies = [
    ...(available > 0 ? [`use --samples ${available}`] : []),
    ...(shorter > 0 ? [`use --seq-len ${shorter}`] : []),
    'give --calib more text',
  ]
  return new QuantizeError(
    'bad-input',
    `calibration text has ${tokens} tokens: ${available} windows of ${seqLen}, and ${samples} were asked for; ${remedies.join(', or ')}`,
  )
}

function reportOf(documents: number, tokens: number, available: number, options: WindowOptions): WindowsReport {
  const tokensUsed = options.samples * options.seqLen
  return {
    documents,
    tokensAvailable: tokens,
    windowsAvailable: available,
    samplesUsed: options.samples,
    tokensUsed,
    tokensDropped: tokens - tokensUsed,
  }
}
