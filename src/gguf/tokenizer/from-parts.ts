import type { Vocabulary } from './gguf-vocabulary.ts'
import type { Json } from './hf-tokenizer.ts'
import type { SpecialName } from './special.ts'
import { paddingToken, tokenTypes } from './token-types.ts'

/** What depends on the kind of tokenizer. */
export interface Parts {
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
export const modelVocabulary = ({ tokens, types }: Vocabulary): Record<string, number> =>
  Object.fromEntries(
    tokens.flatMap((token, id) =>
      types[id] === tokenTypes.unused && token === paddingToken(id) ? [] : [[token, id] as const],
    ),
  )

export const plainModel = { type: 'BPE', dropout: null, continuing_subword_prefix: null, end_of_word_suffix: null }
