import { join } from 'node:path'
import { type ModelFiles, modelText } from '../checkpoint/beside.ts'
import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { parseJsonObject } from '../io/parse-json.ts'
import { printable } from '../io/printable.ts'
import { packageFile } from '../package-files.ts'
import { type Confined, confine, ExcessError } from './confined.ts'
import { type Cutting, cuttingOf, pieces } from './cut.ts'

/** Text to token ids, as Python's `Tokenizer.from_file(tokenizer.json).encode(text, add_special_tokens=False).ids`. */
export interface Tokenizer {
  /** Largest id + 1. The model's embedding may have more rows (padding) or fewer (then the caller must refuse the ids). */
  readonly vocabularySize: number
  /**
   * Ids of `text`, without special tokens added; special tokens that stand in the text are recognised. One text at a time.
   * @throws QuantizeError bad-input: over the time limit, or a text without ids; exhausted: over the memory limit
   */
  encode(text: string): Promise<Int32Array>
  /** The same ids, for megabytes of text: encoded piece by piece where cutting provably changes no id (cut.ts). */
  encodeLong(text: string): Promise<Int32Array>
  /** Lets go of the thread and the vocabulary. */
  close(): Promise<void>
}

/** A tokenizer.json decides how long it runs (its patterns may backtrack without end) and what it takes; beyond this it is ended. */
export interface TokenizerLimits {
  /** For loading, and again for each text (or piece of one) that is encoded; ms. */
  readonly baseMs: number
  /** More for each character of tokenizer.json while it is loaded; 17 MB with 850 000 merges took 9.6 s on two busy cores, 0.6 µs each. */
  readonly loadMsPerChar: number
  /** More for each character of a text; one long word of the same tokenizer took 9 µs each. */
  readonly encodeMsPerChar: number
  readonly heapBytes: number
}

export const tokenizerLimits: TokenizerLimits = {
  baseMs: 10_000,
  loadMsPerChar: 0.005,
  encodeMsPerChar: 0.05,
  heapBytes: 4 * 2 ** 30,
}

const tokenizerName = 'tokenizer.json'
const configName = 'tokenizer_config.json'
/** The largest published tokenizer.json is about 35 MB. As many brackets become 1.2 GB of lists, below every heap limit of Node. */
const maxJsonBytes = 2 ** 26
export const workerScript = packageFile('text/tokenizer-worker.js')

/**
 * The token ids of each document, by the model's tokenizer.json.
 * @param vocabulary of the model: ids lie below it
 * @throws QuantizeError as loadTokenizer and encode; bad-input for an id that the model does not have
 */
export async function encodeDocuments(
  model: ModelFiles,
  documents: readonly string[],
  vocabulary: number,
  files: Files,
): Promise<Int32Array[]> {
  const tokenizer = await loadTokenizer(model, files)
  try {
    const encoded: Int32Array[] = []
    for (const document of documents) {
      const ids = await tokenizer.encodeLong(document)
      const outside = ids.find(id => id >= vocabulary)
      if (outside !== undefined)
        throw new QuantizeError(
          'bad-input',
          `${printable(join(model.folder, tokenizerName))} gives token ${outside}, but the model has ${vocabulary} tokens; does it belong to this model?`,
        )
      encoded.push(ids)
    }
    return encoded
  } finally {
    await tokenizer.close()
  }
}

/**
 * Reads tokenizer.json (and tokenizer_config.json where there is one) of a model, into a worker thread; the caller closes it.
 * @param open starts the worker
 * @throws QuantizeError bad-input when there is no tokenizer.json, or it cannot be used
 */
export async function loadTokenizer(
  model: ModelFiles,
  files: Files,
  limits = tokenizerLimits,
  open = () => confine(workerScript, limits.heapBytes),
): Promise<Tokenizer> {
  const path = join(model.folder, tokenizerName)
  const json = modelText(model, tokenizerName, maxJsonBytes, files)
  if (json === undefined)
    throw new QuantizeError(
      'bad-input',
      `${printable(model.folder)} has no tokenizer.json beside the weights; methods that need no data: rtn`,
    )
  const cutting = cuttingOf(parseJsonObject(json, path))
  const config = readConfig(model, files)
  return openTokenizer(open(), path, json, config, cutting, limits)
}

function readConfig(model: ModelFiles, files: Files): string | undefined {
  const text = modelText(model, configName, maxJsonBytes, files)
  if (text !== undefined) parseJsonObject(text, join(model.folder, configName))
  return text
}

/** What the worker answers. */
interface Answer {
  readonly problem?: string
  readonly vocabularySize?: number
  readonly ids?: Int32Array
}

async function openTokenizer(
  worker: Confined,
  path: string,
  json: string,
  config: string | undefined,
  cutting: Cutting | undefined,
  limits: TokenizerLimits,
): Promise<Tokenizer> {
  try {
    const loadMs = limits.baseMs + limits.loadMsPerChar * json.length
    const { problem, vocabularySize } = await ask(worker, path, { json, config }, loadMs, 'loading it')
    if (vocabularySize === undefined)
      throw new QuantizeError(
        'bad-input',
        `${printable(path)} is not a tokenizer that can be read: ${printable(problem ?? 'no answer')}`,
      )
    const encode = async (text: string): Promise<Int32Array> => {
      const encodeMs = limits.baseMs + limits.encodeMsPerChar * text.length
      const what = `encoding ${text.length} characters`
      const answer = await ask(worker, path, { text }, encodeMs, what)
      if (answer.ids !== undefined) return answer.ids
      throw new QuantizeError(
        'bad-input',
        `${printable(path)}: ${what} failed: ${printable(answer.problem ?? 'no answer')}`,
      )
    }
    return {
      vocabularySize,
      encode,
      encodeLong: text => encodePieces(encode, text, cutting),
      close: () => worker.close(),
    }
  } catch (error) {
    await worker.close()
    throw error
  }
}

async function ask(worker: Confined, path: string, request: unknown, limitMs: number, what: string): Promise<Answer> {
  try {
    return (await worker.ask(request, limitMs)) as Answer
  } catch (error) {
    if (error instanceof ExcessError) throw excess(error, path, limitMs, what)
    throw error
  }
}

function excess(error: ExcessError, path: string, limitMs: number, what: string): QuantizeError {
  if (error.excess === 'memory')
    return new QuantizeError('exhausted', `${printable(path)}: ${what} took all memory that a tokenizer may take`, {
      cause: error,
    })
  return new QuantizeError(
    'bad-input',
    `${printable(path)}: ${what} took more than ${Math.ceil(limitMs / 1000)} s and was stopped; one of its patterns may backtrack without end`,
    { cause: error },
  )
}

async function encodePieces(
  encode: (piece: string) => Promise<Int32Array>,
  text: string,
  cutting: Cutting | undefined,
): Promise<Int32Array> {
  const parts: Int32Array[] = []
  let length = 0
  for (const piece of pieces(text, cutting)) {
    const ids = await encode(piece)
    parts.push(ids)
    length += ids.length
  }
  return concatenate(parts, length)
}

function concatenate(parts: readonly Int32Array[], length: number): Int32Array {
  const all = new Int32Array(length)
  let position = 0
  for (const part of parts) {
    all.set(part, position)
    position += part.length
  }
  return all
}
