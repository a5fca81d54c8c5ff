/** tokenizer.json (huggingface/tokenizers), as far as a BPE tokenizer needs it, checked. */
import { QuantizeError } from '../../errors.ts'
import { isObject } from '../../io/is-object.ts'
import { printable } from '../../io/printable.ts'

export type Json = Readonly<Record<string, unknown>>

export interface AddedToken {
  readonly id: number
  readonly content: string
  readonly special: boolean
  /** Found in normalized text, instead of text as it is. */
  readonly normalized: boolean
  /** Takes spaces beside it along, or stands only between words: what llama.cpp does not do. */
  readonly picky: boolean
}

export interface HfTokenizer {
  /** For messages. */
  readonly file: string
  /** Ids of the model; added tokens may be among them or not. */
  readonly vocabulary: ReadonlyMap<string, number>
  readonly merges: readonly (readonly [left: string, right: string])[]
  readonly added: readonly AddedToken[]
  /** `model` without vocabulary and merges. */
  readonly model: Json
  readonly normalizer: unknown
  readonly preTokenizer: unknown
  readonly postProcessor: unknown
}

const maxTokens = 2 ** 24 // an id is exact in float32

const refuse = (file: string, problem: string, code: 'bad-input' | 'unsupported' = 'bad-input'): never => {
  throw new QuantizeError(code, `${printable(file)}: ${problem}`)
}

const isId = (value: unknown): value is number =>
  typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < maxTokens

const readVocabulary = (raw: unknown, file: string): ReadonlyMap<string, number> => {
  if (!isObject(raw)) return refuse(file, 'model.vocab must be an object')
  const vocabulary = new Map<string, number>()
  const taken = new Set<number>()
  for (const [token, id] of Object.entries(raw)) {
    if (!isId(id)) return refuse(file, `the id of token "${printable(token)}" is no integer from 0 to ${maxTokens - 1}`)
    if (taken.has(id)) refuse(file, `id ${id} is given to two tokens`)
    taken.add(id)
    vocabulary.set(token, id)
  }
  return vocabulary
}

/** `["a", "b"]`, or `"a b"` in files from before 2024. */
const readMerge = (raw: unknown): readonly [string, string] | undefined => {
  const parts = typeof raw === 'string' ? raw.split(' ') : raw
  if (!Array.isArray(parts) || parts.length !== 2) return undefined
  const [left, right] = parts
  return typeof left === 'string' && typeof right === 'string' ? [left, right] : undefined
}

const readMerges = (raw: unknown, vocabulary: ReadonlyMap<string, number>, file: string) => {
  if (!Array.isArray(raw)) return refuse(file, 'model.merges must be a list')
  return raw.map((item, index) => {
    const merge = readMerge(item) ?? refuse(file, `merge ${index} is no pair of strings`)
    const missing = [...merge, merge.join('')].find(part => !vocabulary.has(part))
    if (missing !== undefined)
      refuse(file, `merge ${index} has the token "${printable(missing)}", which is not in the vocabulary`)
    return merge
  })
}

const readAddedToken = (raw: unknown, index: number, file: string): AddedToken => {
  if (!isObject(raw) || !isId(raw.id) || typeof raw.content !== 'string' || raw.content === '')
    return refuse(file, `added token ${index} has no id or no content`)
  const { id, content, special, normalized, lstrip, rstrip, single_word } = raw
  return {
    id,
    content,
    special: special === true,
    normalized: normalized === true,
    picky: [lstrip, rstrip, single_word].includes(true),
  }
}

const readAdded = (raw: unknown, vocabulary: ReadonlyMap<string, number>, file: string): AddedToken[] => {
  if (!Array.isArray(raw)) return refuse(file, 'added_tokens must be a list')
  const added = raw.map((item, index) => readAddedToken(item, index, file))
  const contents = new Map([...vocabulary].map(([token, id]) => [id, token]))
  for (const { id, content } of added) {
    const other = contents.get(id) ?? content
    if (other !== content || (vocabulary.get(content) ?? id) !== id)
      refuse(file, `added token "${printable(content)}" has id ${id}, but the vocabulary says otherwise`)
    contents.set(id, content)
  }
  return added
}

/** Fields of a BPE model that change its tokens in ways that neither of llama.cpp's tokenizers has. */
const checkModel = (model: Json, file: string): void => {
  if (model.type !== 'BPE')
    refuse(file, `its model is ${printable(String(model.type))}; only BPE is written to GGUF`, 'unsupported')
  for (const field of ['continuing_subword_prefix', 'end_of_word_suffix', 'dropout'])
    if (model[field]) refuse(file, `model.${field} is set, which llama.cpp does not have`, 'unsupported')
}

/**
 * @param raw parsed tokenizer.json
 * @throws QuantizeError unsupported for another model than BPE; bad-input for what the library itself would not load
 */
export const readHfTokenizer = (raw: Json, file: string): HfTokenizer => {
  if (!isObject(raw.model)) return refuse(file, 'has no model')
  const { vocab, merges, ...model } = raw.model
  checkModel(model, file)
  const vocabulary = readVocabulary(vocab, file)
  return {
    file,
    vocabulary,
    merges: readMerges(merges, vocabulary, file),
    added: readAdded(raw.added_tokens ?? [], vocabulary, file),
    model,
    normalizer: raw.normalizer,
    preTokenizer: raw.pre_tokenizer,
    postProcessor: raw.post_processor,
  }
}
