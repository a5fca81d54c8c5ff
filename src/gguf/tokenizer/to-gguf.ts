/** A model's tokenizer, from the files of transformers to the keys of GGUF. */
import { join } from 'node:path'
import { modelText } from '../../checkpoint/beside.ts'
import { QuantizeError } from '../../errors.ts'
import type { Files } from '../../io/files.ts'
import { parseJsonObject } from '../../io/parse-json.ts'
import { printable } from '../../io/printable.ts'
import type { GgufValue } from '../values.ts'
import { byteLevelMetadata, isByteLevel } from './byte-level.ts'
import { type Json, readHfTokenizer } from './hf-tokenizer.ts'
import { sentencePieceMetadata } from './sentence-piece.ts'
import { specialMetadata, type TokenizerConfigs } from './special.ts'
import { notesOnAdded } from './vocabulary.ts'

export interface TokenizerMetadata {
  /** Keys `tokenizer.*`. */
  readonly metadata: ReadonlyMap<string, GgufValue>
  /** For the report: where llama.cpp splits text otherwise. */
  readonly notes: readonly string[]
}

/** The files as they are parsed. */
export interface TokenizerFiles extends TokenizerConfigs {
  /** tokenizer.json */
  readonly json: Json
  /** Its path, for messages. */
  readonly file: string
}

/**
 * @param rows of the model's embedding: as many tokens the file gets
 * @throws QuantizeError unsupported: a tokenizer that llama.cpp does not have; bad-input: one that contradicts itself or the model
 */
export const tokenizerMetadata = ({ json, file, ...configs }: TokenizerFiles, rows: number): TokenizerMetadata => {
  const tokenizer = readHfTokenizer(json, file)
  const kind = isByteLevel(tokenizer.preTokenizer) ? byteLevelMetadata : sentencePieceMetadata
  const own = kind(tokenizer, rows)
  const special = specialMetadata(tokenizer, configs, rows)
  return {
    metadata: new Map([...own.entries, ...special.entries]),
    notes: [...own.notes, ...special.notes, ...notesOnAdded(tokenizer)],
  }
}

/** The largest published tokenizer.json is about 35 MB. */
const maxJsonBytes = 2 ** 26

const optionalJson = (folder: string, name: string, files: Files): Json | undefined => {
  const text = modelText({ folder }, name, maxJsonBytes, files)
  return text === undefined ? undefined : parseJsonObject(text, join(folder, name))
}

/** The tokenizer's files of a model's folder. @throws QuantizeError bad-input when there is no tokenizer.json, or one is not JSON */
export const readTokenizerFiles = (folder: string, files: Files): TokenizerFiles => {
  const file = join(folder, 'tokenizer.json')
  const json = optionalJson(folder, 'tokenizer.json', files)
  if (json === undefined)
    throw new QuantizeError(
      'bad-input',
      `${printable(folder)} has no tokenizer.json, without which llama.cpp loads no model`,
    )
  return {
    json,
    file,
    tokenizer: optionalJson(folder, 'tokenizer_config.json', files),
    chatTemplate: modelText({ folder }, 'chat_template.jinja', maxJsonBytes, files),
    model: optionalJson(folder, 'config.json', files),
    generation: optionalJson(folder, 'generation_config.json', files),
  }
}
