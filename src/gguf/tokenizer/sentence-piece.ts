/** SentencePiece's BPE as tokenizer.json has it (Llama 2, Mistral) to `tokenizer.ggml.model` "llama". */
import { QuantizeError } from '../../errors.ts'
import { isObject } from '../../io/is-object.ts'
import { printable } from '../../io/printable.ts'
import { arrayOf, type GgufValue, single } from '../values.ts'
import type { AddedToken, HfTokenizer } from './hf-tokenizer.ts'
import { scoresOf, unlistedMerges } from './merges.ts'
import { tokenizerKey } from './special.ts'
import { isByteToken, tokenTypes } from './token-types.ts'
import { gatherVocabulary } from './vocabulary.ts'

export const space = '▁' // U+2581

/** How spaces become `space`, and where one is put before text. */
interface Spaces {
  /** Before every text between added tokens, as llama.cpp does; or nowhere; or as Metaspace does, which leaves out some. */
  readonly before: 'always' | 'never' | 'metaspace'
}

const refuse = (file: string, problem: string, code: 'bad-input' | 'unsupported' = 'unsupported'): never => {
  throw new QuantizeError(code, `${printable(file)}: ${problem}`)
}

const isReplace = (node: unknown): boolean =>
  isObject(node) &&
  node.type === 'Replace' &&
  isObject(node.pattern) &&
  node.pattern.String === ' ' &&
  node.content === space

const isPrepend = (node: unknown): boolean => isObject(node) && node.type === 'Prepend' && node.prepend === space

const byNormalizer = (normalizer: unknown): Spaces | undefined => {
  const steps = isObject(normalizer) && normalizer.type === 'Sequence' ? normalizer.normalizers : [normalizer]
  if (!Array.isArray(steps) || !isReplace(steps.at(-1))) return undefined
  if (steps.length === 1) return { before: 'never' }
  return steps.length === 2 && isPrepend(steps[0]) ? { before: 'always' } : undefined
}

/** Where words are cut apart at spaces, no token may hold one inside, since llama.cpp does not cut. */
const cutsNothing = ({ split }: { readonly split?: unknown }, { vocabulary }: HfTokenizer): boolean =>
  split === false || [...vocabulary.keys()].every(token => token.lastIndexOf(space) <= 0)

const byMetaspace = (tokenizer: HfTokenizer): Spaces | undefined => {
  const { preTokenizer: node } = tokenizer
  if (!isObject(node) || node.type !== 'Metaspace' || (node.replacement ?? space) !== space) return undefined
  if (!cutsNothing(node, tokenizer)) return undefined
  const scheme = node.prepend_scheme ?? (node.add_prefix_space === false ? 'never' : 'always')
  return { before: scheme === 'never' ? 'never' : 'metaspace' }
}

const spacesOf = (tokenizer: HfTokenizer): Spaces => {
  const { file, normalizer, preTokenizer } = tokenizer
  const none = (node: unknown): boolean => node === null || node === undefined
  const found = none(preTokenizer) ? byNormalizer(normalizer) : none(normalizer) ? byMetaspace(tokenizer) : undefined
  return (
    found ??
    refuse(
      file,
      `llama.cpp has no tokenizer with its normalizer and pre_tokenizer; known: byte-level BPE, and "${space}" for spaces as Llama 2 and Mistral have it`,
    )
  )
}

const spacesNote = (file: string, { before }: Spaces): readonly string[] =>
  before === 'metaspace'
    ? [
        `${printable(file)}: llama.cpp puts a space before text that begins with one or follows a special token, where this tokenizer does not`,
      ]
    : []

/** llama.cpp merges whatever two tokens make a third, as SentencePiece does. */
const mergesNote = ({ file, vocabulary, merges, added }: HfTokenizer): readonly string[] => {
  const special = new Set(added.map(({ content }) => content))
  const own = new Set([...vocabulary.keys()].filter(token => !special.has(token) && !isByteToken(token)))
  const count = unlistedMerges(own, merges)
  return count === 0
    ? []
    : [
        `${printable(file)}: llama.cpp also merges ${count} pairs that its list of merges lacks; some words may give other ids`,
      ]
}

/** Added tokens of normalized text carry `space`; llama.cpp looks for them in text as it is. */
const plainText = ({ content, normalized }: AddedToken): string =>
  normalized ? content.replaceAll(space, ' ') : content

const checkFallback = ({ file, model, vocabulary }: HfTokenizer): void => {
  if (model.byte_fallback !== true)
    refuse(file, 'has no byte_fallback, without which llama.cpp cannot write characters that are no tokens')
  const missing = Array.from(
    { length: 256 },
    (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
  ).find(token => !vocabulary.has(token))
  if (missing !== undefined) refuse(file, `has byte_fallback but no token ${missing}`, 'bad-input')
}

/**
 * @param rows of the model's embedding
 * @throws QuantizeError unsupported: a normalizer or pre_tokenizer that llama.cpp does not have
 */
export const sentencePieceMetadata = (tokenizer: HfTokenizer, rows: number) => {
  const { file, model, merges } = tokenizer
  const spaces = spacesOf(tokenizer)
  checkFallback(tokenizer)
  const typeOf = (token: string): number =>
    token === model.unk_token ? tokenTypes.unknown : isByteToken(token) ? tokenTypes.byte : tokenTypes.normal
  const { tokens, types } = gatherVocabulary(tokenizer, rows, typeOf, plainText)
  const entries: [string, GgufValue][] = [
    [tokenizerKey('model'), single('string', 'llama')],
    [tokenizerKey('pre'), single('string', 'default')],
    [tokenizerKey('tokens'), arrayOf('string', tokens)],
    [tokenizerKey('scores'), arrayOf('f32', scoresOf(tokens, merges))],
    [tokenizerKey('token_type'), arrayOf('i32', types)],
    [tokenizerKey('add_space_prefix'), single('bool', spaces.before !== 'never')],
  ]
  return { entries, notes: [...spacesNote(file, spaces), ...mergesNote(tokenizer)] }
}
