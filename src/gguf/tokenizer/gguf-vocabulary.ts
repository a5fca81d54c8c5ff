import { printable } from '../../io/printable.ts'
import type { Keys } from '../metadata.ts'
import { tokenizerKey } from './special.ts'
import { type GgufVocabulary, tokenTypes } from './token-types.ts'

export type Vocabulary = GgufVocabulary

const maxTokens = 2_000_000 // published ones have up to 262 144

const readTypes = (keys: Keys, count: number): readonly number[] => {
  const key = tokenizerKey('token_type')
  const stored = keys.array(key, 'i32')
  if (stored === undefined) return Array.from({ length: count }, () => tokenTypes.normal)
  if (stored.length < count) keys.fail(key, `has ${stored.length} types for ${count} tokens`)
  return stored.values().slice(0, count) as readonly number[]
}

/** llama.cpp calls a token without text so. */
const named = (token: string, id: number): string => (token === '' ? `[EMPTY_${id}]` : token)

/** @throws QuantizeError bad-input: no tokens, too many, two of one text, fewer types than tokens */
export const readVocabulary = (keys: Keys): Vocabulary => {
  const key = tokenizerKey('tokens')
  const stored = keys.array(key, 'string') ?? keys.fail(key, 'is missing (array of string)')
  if (stored.length > maxTokens) keys.fail(key, `has ${stored.length} tokens; at most ${maxTokens} are read`)
  const tokens = stored.values().map((token, id) => named(token as string, id))
  const seen = new Set<string>()
  for (const token of tokens) {
    if (seen.has(token)) keys.fail(key, `has "${printable(token)}" twice`)
    seen.add(token)
  }
  return { tokens, types: readTypes(keys, tokens.length) }
}
