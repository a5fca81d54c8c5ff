import { QuantizeError } from '../../errors.ts'
import { printable } from '../../io/printable.ts'
import type { AddedToken, HfTokenizer } from './hf-tokenizer.ts'
import { type GgufVocabulary, paddingToken, tokenTypes } from './token-types.ts'

const refuse = (file: string, problem: string): never => {
  throw new QuantizeError('bad-input', `${printable(file)}: ${problem}`)
}

const put = (tokens: string[], types: number[], token: string, type: number, id: number): void => {
  tokens[id] = token
  types[id] = type
}

/**
 * All tokens by id, up to the rows of the model's embedding; ids without one get padding.
 * @param rows of the embedding
 * @param typeOf of a token that is not added
 * @param textOf an added token as it stands in text, since llama.cpp looks for added tokens before it normalizes
 * @throws QuantizeError bad-input for a token beyond the rows, or two of one text, which llama.cpp does not load
 */
export const gatherVocabulary = (
  { file, vocabulary, added }: HfTokenizer,
  rows: number,
  typeOf: (token: string) => number,
  textOf: (token: AddedToken) => string,
): GgufVocabulary => {
  const largest = [...vocabulary.values(), ...added.map(({ id }) => id)].reduce((most, id) => Math.max(most, id), -1)
  if (largest >= rows)
    refuse(file, `has a token of id ${largest}, but the model has ${rows} tokens; do they belong together?`)
  const tokens = Array.from({ length: rows }, (_, id) => paddingToken(id))
  const types = Array.from({ length: rows }, (): number => tokenTypes.unused)
  for (const [token, id] of vocabulary) put(tokens, types, token, typeOf(token), id)
  for (const token of added) {
    const special = types[token.id] === tokenTypes.unknown ? tokenTypes.unknown : tokenTypes.control
    put(tokens, types, textOf(token), token.special ? special : tokenTypes.userDefined, token.id)
  }
  const seen = new Set<string>()
  for (const token of tokens) {
    if (seen.has(token)) refuse(file, `two tokens are spelled "${printable(token)}", which llama.cpp does not load`)
    seen.add(token)
  }
  return { tokens, types }
}

/** Notes on added tokens that llama.cpp finds in more places than transformers. */
export const notesOnAdded = ({ file, added }: HfTokenizer): readonly string[] => {
  const picky = added.filter(token => token.picky)
  if (picky.length === 0) return []
  const names = picky.slice(0, 3).map(({ content }) => `"${printable(content)}"`)
  return [
    `${printable(file)}: ${picky.length} added tokens (${names.join(', ')}…) have lstrip, rstrip or single_word, which llama.cpp ignores`,
  ]
}
