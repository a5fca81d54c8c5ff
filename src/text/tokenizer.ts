import { join } from 'node:path'
import { Tokenizer as Library } from '@huggingface/tokenizers'
import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { printable } from '../io/printable.ts'
import { type Cutting, cuttingOf, pieces } from './cut.ts'
import { useUnicodeWhitespace } from './whitespace.ts'

/** Text to token ids, as Python's `Tokenizer.from_file(tokenizer.json).encode(text, add_special_tokens=False).ids`. */
export interface Tokenizer {
  /** Largest id + 1. The model's embedding may have more rows (padding) or fewer (then the caller must refuse the ids). */
  readonly vocabularySize: number
  /** Ids of `text`, without special tokens added; special tokens that stand in the text are recognised. */
  encode(text: string): Int32Array
  /** The same ids, for megabytes of text: encoded piece by piece where cutting provably changes no id (cut.ts). */
  encodeLong(text: string): Int32Array
}

/** The fields of tokenizer.json that are read here; everything in it is the library's to check. */
type TokenizerJson = Readonly<Record<string, unknown>>

const maxJsonBytes = 200_000_000 // the largest published tokenizer.json is about 35 MB
const optionalFields = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, added_tokens: [] }

/**
 * Reads tokenizer.json (and tokenizer_config.json where there is one) of a model's folder.
 * @throws QuantizeError bad-input when there is no tokenizer.json, or it cannot be used
 */
export function loadTokenizer(folder: string, files: Files): Tokenizer {
  const path = join(folder, 'tokenizer.json')
  if (files.stat(path)?.kind !== 'file') {
    throw new QuantizeError(
      'bad-input',
      `${printable(folder)} has no tokenizer.json beside the weights; methods that need no data: rtn`,
    )
  }
  const json = { ...optionalFields, ...readObject(path, files) }
  const library = build(path, json, readConfig(folder, files))
  useUnicodeWhitespace(library.pre_tokenizer)
  const cutting = cuttingOf(json)
  return {
    vocabularySize: vocabularySize(library),
    encode: text => encodePiece(library, path, text),
    encodeLong: text => encodePieces(library, path, text, cutting),
  }
}

function build(path: string, json: TokenizerJson, config: TokenizerJson): Library {
  try {
    return new Library(json, config)
  } catch (error) {
    throw new QuantizeError(
      'bad-input',
      `${printable(path)} is not a tokenizer that can be read: ${printable(reason(error))}`,
      {
        cause: error,
      },
    )
  }
}

/** tokenizer_config.json without the two fields that the library obeys and tokenizer.json's own runtime does not know. */
function readConfig(folder: string, files: Files): TokenizerJson {
  const path = join(folder, 'tokenizer_config.json')
  if (files.stat(path)?.kind !== 'file') return {}
  return { ...readObject(path, files), remove_space: false, do_lowercase_and_remove_accent: false }
}

function readObject(path: string, files: Files): TokenizerJson {
  const text = files.readText(path, maxJsonBytes)
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new QuantizeError('bad-input', `${printable(path)} is not JSON: ${printable(reason(error))}`, {
      cause: error,
    })
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new QuantizeError('bad-input', `${printable(path)} must hold a JSON object`)
  }
  return value as TokenizerJson
}

function vocabularySize(library: Library): number {
  let size = 0
  for (const id of library.get_vocab().values()) size = Math.max(size, id + 1)
  for (const id of library.get_added_tokens_decoder().keys()) size = Math.max(size, id + 1)
  return size
}

function encodePieces(library: Library, path: string, text: string, cutting: Cutting | undefined): Int32Array {
  const parts: Int32Array[] = []
  let length = 0
  for (const piece of pieces(text, cutting)) {
    const ids = encodePiece(library, path, piece)
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

function encodePiece(library: Library, path: string, text: string): Int32Array {
  const { ids, tokens } = library.encode(text, { add_special_tokens: false })
  const all = new Int32Array(ids.length)
  for (let i = 0; i < ids.length; i++) {
    const id: number | undefined = ids[i] // undefined where neither the piece of text nor an unknown token has an id
    if (id === undefined || !Number.isInteger(id) || id < 0) {
      throw new QuantizeError('bad-input', `${printable(path)} gives no token id for ${JSON.stringify(tokens[i])}`)
    }
    all[i] = id
  }
  return all
}

/** The first line of an error's message, bounded: a parser may quote the whole file. */
function reason(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error)
  return message.split('\n')[0].slice(0, 200)
}
