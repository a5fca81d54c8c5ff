/** tokenizer.json and tokenizer_config.json from the keys of a GGUF: the same ids for the same text. */
import { printable } from '../../io/printable.ts'
import { type Keys, openMetadata } from '../metadata.ts'
import type { GgufMetadata } from '../values.ts'
import { byteLevelParts } from './from-byte-level.ts'
import type { Parts } from './from-parts.ts'
import { sentencePieceParts } from './from-sentence-piece.ts'
import { readVocabulary, type Vocabulary } from './gguf-vocabulary.ts'
import type { Json } from './hf-tokenizer.ts'
import { type SpecialName, specialKeys, tokenizerKey } from './special.ts'
import { tokenTypes } from './token-types.ts'

export interface HfTokenizerFiles {
  /** tokenizer.json */
  readonly tokenizer: Json
  /** tokenizer_config.json */
  readonly config: Json
  /** chat_template.jinja */
  readonly chatTemplate?: string
  readonly notes: readonly string[]
}

const addedTokens = ({ tokens, types }: Vocabulary): Json[] =>
  tokens.flatMap((content, id) => {
    const type = types[id]
    const special = type === tokenTypes.control || type === tokenTypes.unknown
    if (!special && type !== tokenTypes.userDefined) return []
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }]
  })

const specialTokens = (keys: Keys, { tokens }: Vocabulary, otherwise: Parts['ids']): Map<SpecialName, string> => {
  const found = new Map<SpecialName, string>()
  for (const name of Object.keys(specialKeys) as SpecialName[]) {
    const key = tokenizerKey(specialKeys[name])
    const id = keys.number(key, 'u32', otherwise[name] ?? -1)
    if (id >= tokens.length) keys.fail(key, `is ${id}, but there are ${tokens.length} tokens`)
    if (id >= 0) found.set(name, tokens[id])
  }
  return found
}

/** Puts bos before a text and eos behind it. */
const template = (bos: string | undefined, eos: string | undefined, { tokens }: Vocabulary): Json => {
  const token = (id: string | undefined, type: number): Json[] =>
    id === undefined ? [] : [{ SpecialToken: { id, type_id: type } }]
  const around = (id: 'A' | 'B', type: number): Json[] => [
    ...token(bos, type),
    { Sequence: { id, type_id: type } },
    ...token(eos, type),
  ]
  const used = [...new Set([bos, eos])].filter(id => id !== undefined)
  return {
    type: 'TemplateProcessing',
    single: around('A', 0),
    pair: [...around('A', 0), ...around('B', 1)],
    special_tokens: Object.fromEntries(used.map(id => [id, { id, ids: [tokens.indexOf(id)], tokens: [id] }])),
  }
}

const partsOf = (keys: Keys, vocabulary: Vocabulary): Parts => {
  const key = tokenizerKey('model')
  const model = keys.text(key)
  if (model === 'gpt2') return byteLevelParts(keys, vocabulary)
  if (model === 'llama') return sentencePieceParts(keys, vocabulary)
  return keys.fail(key, `"${printable(model)}" is not read; gpt2 and llama are`, 'unsupported')
}

const around = (keys: Keys, which: 'bos' | 'eos', otherwise: boolean, special: Map<SpecialName, string>) => {
  const key = tokenizerKey(`add_${which}_token`)
  if (!keys.boolean(key, otherwise && special.has(which))) return undefined
  return special.get(which) ?? keys.fail(key, `is true, but there is no ${tokenizerKey(specialKeys[which])}`)
}

/**
 * The files of transformers that the keys of a GGUF stand for.
 * @param file as the user knows it, for messages
 * @throws QuantizeError unsupported: a tokenizer or pre-tokenizer that is not known; bad-input: keys that are missing, of the wrong type, or
 *   contradict each other
 */
export const hfTokenizerOf = (metadata: GgufMetadata, file: string): HfTokenizerFiles => {
  const keys = openMetadata(metadata, file)
  const vocabulary = readVocabulary(keys)
  const { model, normalizer, preTokenizer, decoder, notes, addBos, ids } = partsOf(keys, vocabulary)
  const special = specialTokens(keys, vocabulary, ids)
  const bos = around(keys, 'bos', addBos, special)
  const eos = around(keys, 'eos', false, special)
  const chatTemplate = keys.text('tokenizer.chat_template', '')
  const named = [...special].map(([name, token]) => [`${name}_token`, token])
  return {
    tokenizer: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: addedTokens(vocabulary),
      normalizer,
      pre_tokenizer: preTokenizer,
      post_processor: template(bos, eos, vocabulary),
      decoder,
      model,
    },
    config: {
      ...Object.fromEntries(named),
      clean_up_tokenization_spaces: false,
      tokenizer_class: 'PreTrainedTokenizerFast',
    },
    ...(chatTemplate ? { chatTemplate } : {}),
    notes,
  }
}
