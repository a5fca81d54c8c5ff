/** Byte-level BPE (GPT-2, Llama 3, Qwen) to `tokenizer.ggml.model` "gpt2". */
import { QuantizeError } from '../../errors.ts'
import { isObject } from '../../io/is-object.ts'
import { printable } from '../../io/printable.ts'
import { arrayOf, type GgufValue, single } from '../values.ts'
import type { HfTokenizer } from './hf-tokenizer.ts'
import { mergesReachAll } from './merges.ts'
import { type PreTokenizer, preTokenizers, recognisePreTokenizers } from './pre-tokenizers.ts'
import { tokenizerKey } from './special.ts'
import { tokenTypes } from './token-types.ts'
import { gatherVocabulary } from './vocabulary.ts'

const refuse = (file: string, problem: string): never => {
  throw new QuantizeError('unsupported', `${printable(file)}: ${problem}`)
}

/** Whether words of a pre_tokenizer become bytes: this kind of tokenizer, recognised or not. */
export const isByteLevel = (node: unknown): boolean =>
  isObject(node) &&
  (node.type === 'ByteLevel' || (Array.isArray(node.pretokenizers) && node.pretokenizers.some(isByteLevel)))

const choose = (tokenizer: HfTokenizer): PreTokenizer => {
  const { file, vocabulary, merges, model, preTokenizer, added } = tokenizer
  const known = recognisePreTokenizers(preTokenizer)
  if (known.length === 0)
    return refuse(
      file,
      `llama.cpp has no name for its pre_tokenizer; known: ${preTokenizers.map(({ names }) => names[0]).join(', ')}`,
    )
  const same = known.find(({ ignoreMerges }) => ignoreMerges === (model.ignore_merges === true))
  if (same) return same
  const special = new Set(added.map(({ content }) => content))
  const own = [...vocabulary.keys()].filter(token => !special.has(token))
  return mergesReachAll(own, merges)
    ? known[0]
    : refuse(
        file,
        `ignore_merges is ${model.ignore_merges === true}, which llama.cpp does not do with ${known[0].names[0]}`,
      )
}

/** Unicode normalization, which llama.cpp does not do; it changes few texts, so that every converter leaves it out. */
const normalizationNote = ({ file, normalizer }: HfTokenizer): readonly string[] => {
  if (normalizer === null || normalizer === undefined) return []
  if (isObject(normalizer) && normalizer.type === 'NFC')
    return [
      `${printable(file)}: llama.cpp does not normalize text (NFC): accents written as marks of their own give other ids`,
    ]
  return refuse(file, 'has a normalizer, which llama.cpp does not have for byte-level tokenizers')
}

const storedMerge = (merge: readonly [string, string], file: string): string => {
  if (merge.some(part => part.includes(' ')))
    refuse(file, `the merge "${printable(merge.join(' '))}" holds a space of its own, which GGUF cannot say`)
  return merge.join(' ')
}

/**
 * @param rows of the model's embedding
 * @throws QuantizeError unsupported: a pre_tokenizer or normalizer that llama.cpp does not have
 */
export const byteLevelMetadata = (tokenizer: HfTokenizer, rows: number) => {
  const { file, merges } = tokenizer
  const pre = choose(tokenizer)
  const notes = normalizationNote(tokenizer)
  const { tokens, types } = gatherVocabulary(
    tokenizer,
    rows,
    () => tokenTypes.normal,
    ({ content }) => content,
  )
  const entries: [string, GgufValue][] = [
    [tokenizerKey('model'), single('string', 'gpt2')],
    [tokenizerKey('pre'), single('string', pre.names[0])],
    [tokenizerKey('tokens'), arrayOf('string', tokens)],
    [tokenizerKey('token_type'), arrayOf('i32', types)],
    [
      tokenizerKey('merges'),
      arrayOf(
        'string',
        merges.map(merge => storedMerge(merge, file)),
      ),
    ],
  ]
  return { entries, notes }
}
