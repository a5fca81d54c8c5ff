/**
 * How byte-level tokenizers cut text into words: pre_tokenizer of tokenizer.json, and the name that llama.cpp has for it in
 * `tokenizer.ggml.pre` (src/llama-vocab.cpp: llm_tokenizer_bpe, llama_vocab::impl::load).
 */
import { isObject } from '../../io/is-object.ts'

/** One step of a pre_tokenizer: a pattern whose matches (and what lies between) become words, or one of the library's own. */
type Step =
  | { readonly split: string }
  | { readonly punctuation: 'contiguous' }
  | { readonly digits: 'each' | 'runs' }
  | { readonly bytes: 'gpt2' | 'plain' }

export interface PreTokenizer {
  /** As llama.cpp knows it; the first is written, all are read. */
  readonly names: readonly string[]
  readonly steps: readonly Step[]
  /** A word that is a token is taken whole, whatever the merges say. */
  readonly ignoreMerges: boolean
  /** What llama.cpp does where `tokenizer.ggml.add_bos_token` is missing. */
  readonly addBos: boolean
}

const suffixes = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
const gpt2Words = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"
const spaces = '\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+'

/** Llama 3 and its kin, which differ in how many digits make a word. */
const words = (digits: string): string =>
  `${suffixes}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|${spaces}`

/** Tekken and o200k: words begin at capitals. */
const casedWords = (suffix: string, digits: string): string => {
  const upper = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]'
  const lower = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]'
  const word = (first: string, second: string): string =>
    `[^\\r\\n\\p{L}\\p{N}]?${upper}${first}${lower}${second}${suffix}`
  return `${word('*', '+')}|${word('+', '*')}|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${spaces}`
}

const qwen35Words = `${suffixes}|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|${spaces}`

const deepseek3Words =
  '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+' +
  `| ?[\\p{P}\\p{S}]+[\\r\\n]*|${spaces}`

const split = (pattern: string): Step => ({ split: pattern })
const bytes: Step = { bytes: 'plain' }
const gpt2: Step = { bytes: 'gpt2' }

const entry = (names: string, steps: readonly Step[], ignoreMerges = false, addBos = false): PreTokenizer => ({
  names: names.split(' '),
  steps,
  ignoreMerges,
  addBos,
})

export const preTokenizers: readonly PreTokenizer[] = [
  entry(
    'llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano',
    [split(words('\\p{N}{1,3}')), bytes],
    true,
    true,
  ),
  entry('glm4 glm5', [split(words('\\p{N}{1,3}')), bytes], true),
  entry('smaug-bpe dbrx chatglm-bpe', [split(words('\\p{N}{1,3}')), bytes]),
  entry('qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2', [
    split(words('\\p{N}')),
    bytes,
  ]),
  entry('qwen35', [split(qwen35Words), bytes]),
  entry(
    'gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 gigachat a.x-4.0 mellum modern-bert jina-es jina-de jina-v2-es jina-v2-de',
    [gpt2],
  ),
  entry('smollm starcoder refact command-r codeshell exaone minerva-7b mellum2', [{ digits: 'each' }, gpt2]),
  entry('tekken', [split(casedWords('', '\\p{N}')), bytes], true, true),
  entry('gpt-4o llama4 kanana2 talkie minimax-m2', [split(casedWords(`${suffixes}?`, '\\p{N}{1,3}')), bytes]),
  entry('deepseek-v3 hunyuan-dense joyai-llm hy_v4', [
    split('\\p{N}{1,3}'),
    split('[一-龥぀-ゟ゠-ヿ]+'),
    split(deepseek3Words),
    bytes,
  ]),
  entry('falcon', [{ punctuation: 'contiguous' }, gpt2, { digits: 'runs' }, split('[0-9][0-9][0-9]')]),
  // what llama.cpp does where the name is missing
  entry('default', [
    split('[\\p{P}\\$\\+<=>\\^~\\|]+'),
    split(gpt2Words),
    split('\\p{N}+'),
    split('[0-9][0-9][0-9]'),
    bytes,
  ]),
]

export const preTokenizerNamed = (name: string): PreTokenizer | undefined =>
  preTokenizers.find(({ names }) => names.includes(name))

type Json = Readonly<Record<string, unknown>>

/** A pattern with its line ends spelled as escapes, which mean the same. */
const spelled = (pattern: string): string => pattern.replaceAll('\r', '\\r').replaceAll('\n', '\\n')

const splitStep = ({ pattern, behavior, invert }: Json): Step | undefined => {
  // with `invert` the pattern says what words are, and the rest, which none of the known patterns leaves, is dropped
  const isolated = (behavior === 'Isolated' && !invert) || (behavior === 'Removed' && invert === true)
  const regex = isObject(pattern) ? pattern.Regex : undefined
  return isolated && typeof regex === 'string' ? split(spelled(regex)) : undefined
}

const stepOf = (node: Json): Step | undefined => {
  if (node.type === 'Split') return splitStep(node)
  if (node.type === 'Digits') return { digits: node.individual_digits === true ? 'each' : 'runs' }
  if (node.type === 'Punctuation' && node.behavior === 'Contiguous') return { punctuation: 'contiguous' }
  if (node.type === 'ByteLevel' && node.add_prefix_space !== true)
    return { bytes: node.use_regex === false ? 'plain' : 'gpt2' }
  return undefined
}

const stepsOf = (node: unknown): readonly (Step | undefined)[] => {
  if (!isObject(node)) return [undefined]
  return node.type === 'Sequence' && Array.isArray(node.pretokenizers)
    ? node.pretokenizers.map(child => (isObject(child) ? stepOf(child) : undefined))
    : [stepOf(node)]
}

/** Those that cut text as this `pre_tokenizer` of a tokenizer.json does; they differ in what becomes of the words. */
export const recognisePreTokenizers = (node: unknown): readonly PreTokenizer[] => {
  const steps = JSON.stringify(stepsOf(node))
  return preTokenizers.filter(known => JSON.stringify(known.steps) === steps)
}

const byteLevel = (useRegex: boolean): Json => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
})

const nodeOf = (step: Step): Json => {
  if ('split' in step) return { type: 'Split', pattern: { Regex: step.split }, behavior: 'Isolated', invert: false }
  if ('digits' in step) return { type: 'Digits', individual_digits: step.digits === 'each' }
  if ('punctuation' in step) return { type: 'Punctuation', behavior: 'Contiguous' }
  return byteLevel(step.bytes === 'gpt2')
}

/** The `pre_tokenizer` of a tokenizer.json. */
export const preTokenizerNode = ({ steps }: PreTokenizer): Json =>
  steps.length === 1 ? nodeOf(steps[0]) : { type: 'Sequence', pretokenizers: steps.map(nodeOf) }

/** The `decoder` that goes with it. */
export const byteLevelDecoder: Json = { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true }
