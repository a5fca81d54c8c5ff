import { printable } from '../../io/printable.ts'
import type { Keys } from '../metadata.ts'
import { modelVocabulary, type Parts, plainModel } from './from-parts.ts'
import type { Vocabulary } from './gguf-vocabulary.ts'
import type { Json } from './hf-tokenizer.ts'
import { maxCharacters, maxMerges, mergesOf } from './merges.ts'
import { space } from './sentence-piece.ts'
import { tokenizerKey } from './special.ts'
import { tokenTypes } from './token-types.ts'

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

/** `tokenizer.ggml.model` "llama": SentencePiece's BPE. */
export const sentencePieceParts = (keys: Keys, vocabulary: Vocabulary): Parts => {
  const scores = scoredTokens(keys, vocabulary)
  const merges =
    mergesOf(scores) ??
    keys.fail(tokenizerKey('tokens'), `can be merged in more than ${maxMerges} ways, which are not read`, 'unsupported')
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
