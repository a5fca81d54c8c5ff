/** Values of `tokenizer.ggml.token_type` (include/llama.h, enum llama_token_type). */
export const tokenTypes = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const

/** A vocabulary as GGUF has it, by id. */
export interface GgufVocabulary {
  readonly tokens: readonly string[]
  readonly types: readonly number[]
}

/** What fills the ids that no token has, up to the rows of the embedding (llama.cpp's converters write the same). */
export const paddingToken = (id: number): string => `[PAD${id}]`

const bytePattern = /^<0x([0-9A-F]{2})>$/

/** Whether a token stands for one byte. */
export const isByteToken = (token: string): boolean => bytePattern.test(token)
