import { printable } from '../../io/printable.ts'
import type { Keys } from '../metadata.ts'
import { modelVocabulary, type Parts, plainModel } from './from-parts.ts'
import type { Vocabulary } from './gguf-vocabulary.ts'
import type { Json } from './hf-tokenizer.ts'
import { maxMerges } from './merges.ts'
import {
  byteLevelDecoder,
  type PreTokenizer,
  preTokenizerNamed,
  preTokenizerNode,
  preTokenizers,
} from './pre-tokenizers.ts'
import { tokenizerKey } from './special.ts'

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
  if (stored.length > maxMerges) keys.fail(key, `has ${stored.length} merges; at most ${maxMerges} are read`)
  const isToken = (token: string): boolean => Object.hasOwn(vocabulary, token)
  return stored.values().map((value, index) => {
    const merge = cutMerge(value as string)
    if (merge && [...merge, merge.join('')].every(isToken)) return merge
    return keys.fail(key, `has an element, ${index}, that is no pair of tokens that make a token`)
  })
}

/** `tokenizer.ggml.model` "gpt2": byte-level BPE. */
export const byteLevelParts = (keys: Keys, vocabulary: Vocabulary): Parts => {
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
