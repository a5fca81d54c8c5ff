/** tokenizer.json and tokenizer_config.json from the keys of a GGUF: the same ids for the same text. */
import { printable } from '../../io/printable.ts'
import { type Keys, openMetadata } from '../metadata.ts'
import type { GgufMetadata } from '../values.ts'
import { readVocabulary, type Vocabulary } from './gguf-vocabulary.ts'
import type { Json } from './hf-tokenizer.ts'
import { maxCharacters, mergesOf } from './merges.ts'
import {
  byteLevelDecoder,
  type PreTokenizer,
  preTokenizerNamed,
  preTokenizerNode,
  preTokenizers,
} from './pre-tokenizers.ts'
import { space } from './sentence-piece.ts'
import { type SpecialName, specialKeys, tokenizerKey } from './special.ts'
import { paddingToken, tokenTypes } from './token-types.ts'

export interface HfTokenizerFiles {
  /** tokenizer.json */
  readonly tokenizer: Json
  /** tokenizer_config.json */
  readonly config: Json
  /** chat_template.jinja */
  readonly chatTemplate?: string
  readonly notes: readonly string[]
}

interface Parts {
  readonly model: Json
  readonly normalizer: Json | null
  readonly preTokenizer: Json | null
  readonly decoder: Json
  readonly notes: readonly string[]
  readonly addBos: boolean
  /** Ids of special tokens where their keys are missing. */
  readonly ids: Readonly<Partial<Record<SpecialName, number>>>
}

/** Tokens of the model itself, by id; padding that only fills ids is left out. */
const modelVocabulary = ({ tokens, types }: Vocabulary): Record<string, number> =>
  Object.fromEntries(
    tokens.flatMap((token, id) =>
      types[id] === tokenTypes.unused && token === paddingToken(id) ? [] : [[token, id] as const],
    ),
  )

const plainModel = { type: 'BPE', dropout: null, continuing_subword_prefix: null, end_of_word_suffix: null }

const preTokenizerOf = (keys: Keys): PreTokenizer => {
  const key = tokenizerKey('pre')
  const name = keys.text(key, 'default')
  return (
    preTokenizerNamed(name) ??
    keys.fail(
      key,
      `"${printable(name)}" is not read; known: ${preTokenizers.flatMap(({ names }) => names).join(', ')}`,
      'unsupported',
    )
  )
}

/** "a b"; a token may begin with a space, so that the first character is passed over, as llama.cpp does. */
const cutMerge = (merge: string): [string, string] | undefined => {
  const at = merge.indexOf(' ', 1)
  return at < 0 ? undefined : [merge.slice(0, at), merge.slice(at + 1)]
}

const byteLevelMerges = (keys: Keys, vocabulary: Json): [string, string][] => {
  const key = tokenizerKey('merges')
  const stored = keys.array(key, 'string') ?? keys.fail(key, 'is missing (array of string)')
  const isToken = (token: string): boolean => Object.hasOwn(vocabulary, token)
  return stored.values().map((value, index) => {
    const merge = cutMerge(value as string)
    if (merge && [...merge, merge.join('')].every(isToken)) return merge
    return keys.fail(key, `has an element, ${index}, that is no pair of tokens that make a token`)
  })
}

const byteLevelParts = (keys: Keys, vocabulary: Vocabulary): Parts => {
  const pre = preTokenizerOf(keys)
  const vocab = modelVocabulary(vocabulary)
  const merges = byteLevelMerges(keys, vocab)
  return {
    model: {
      ...plainModel,
      unk_token: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: pre.ignoreMerges,
      vocab,
      merges,
    },
    normalizer: null,
    preTokenizer: preTokenizerNode(pre),
    decoder: byteLevelDecoder,
    notes: [],
    addBos: pre.addBos,
    ids: {},
  }
}

/** Tokens that merge: normal ones. */
const scoredTokens = (keys: Keys, { tokens, types }: Vocabulary): ReadonlyMap<string, number> => {
  const key = tokenizerKey('scores')
  const scores = keys.array(key, 'f32')?.values() ?? []
  if (scores.length < tokens.length) keys.fail(key, `has ${scores.length} scores for ${tokens.length} tokens`)
  const found = new Map<string, number>()
  tokens.forEach((token, id) => {
    if (types[id] !== tokenTypes.normal) return
    if (!Number.isFinite(scores[id])) keys.fail(key, `has an element, ${id}, that is ${scores[id]}`)
    if (token.length > maxCharacters)
      keys.fail(
        tokenizerKey('tokens'),
        `has a token, ${id}, of ${token.length} characters; ${maxCharacters} are read`,
        'unsupported',
      )
    found.set(token, scores[id] as number)
  })
  return found
}

const replaced = { type: 'Replace', pattern: { String: ' ' }, content: space }

const spaceNormalizer = (prefix: boolean): Json =>
  prefix ? { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: space }, replaced] } : replaced

const spaceDecoder = (prefix: boolean): Json => ({
  type: 'Sequence',
  decoders: [
    { type: 'Replace', pattern: { String: space }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
    ...(prefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
  ],
})

/**
 * Equal scores of tokens that merges make: llama.cpp takes the left one first, a list of merges the same token everywhere. Llama 2 has them
 * for runs of spaces, where both end the same.
 */
const tiesNote = (
  file: string,
  merges: readonly (readonly [string, string])[],
  scores: ReadonlyMap<string, number>,
) => {
  const made = new Set(merges.map(merge => merge.join('')).filter(token => token.replaceAll(space, '') !== ''))
  const distinct = new Set([...made].map(token => scores.get(token)))
  return made.size === distinct.size
    ? []
    : [
        `${printable(file)}: ${made.size - distinct.size} tokens share their score with another; some words may give other ids`,
      ]
}

const sentencePieceParts = (keys: Keys, vocabulary: Vocabulary): Parts => {
  const scores = scoredTokens(keys, vocabulary)
  const merges = mergesOf(scores)
  const prefix = keys.boolean(tokenizerKey('add_space_prefix'), true)
  const unknown = vocabulary.tokens.find((_, id) => vocabulary.types[id] === tokenTypes.unknown)
  return {
    model: {
      ...plainModel,
      unk_token: unknown ?? null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab: modelVocabulary(vocabulary),
      merges,
    },
    normalizer: spaceNormalizer(prefix),
    preTokenizer: null,
    decoder: spaceDecoder(prefix),
    notes: tiesNote(keys.file, merges, scores),
    addBos: true,
    ids: { bos: 1, eos: 2, unk: 0 },
  }
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
