/** Special tokens and chat templates, from where transformers keeps them to `tokenizer.ggml.*` (gguf-py/gguf/vocab.py, SpecialVocab). */
import { isObject } from '../../io/is-object.ts'
import { printable } from '../../io/printable.ts'
import { type GgufValue, single } from '../values.ts'
import type { HfTokenizer, Json } from './hf-tokenizer.ts'

/** The parsed files beside tokenizer.json; all may be missing. */
export interface TokenizerConfigs {
  /** tokenizer_config.json */
  readonly tokenizer?: Json
  /** chat_template.jinja */
  readonly chatTemplate?: string
  /** config.json */
  readonly model?: Json
  /** generation_config.json */
  readonly generation?: Json
}

/** Which token transformers calls what, and its key in GGUF ("seperator" is spelled so). */
export const specialKeys = {
  bos: 'bos_token_id',
  eos: 'eos_token_id',
  unk: 'unknown_token_id',
  sep: 'seperator_token_id',
  pad: 'padding_token_id',
  cls: 'cls_token_id',
  mask: 'mask_token_id',
} as const

export type SpecialName = keyof typeof specialKeys

const names = Object.keys(specialKeys) as readonly SpecialName[]

export const tokenizerKey = (name: string): string => `tokenizer.ggml.${name}`

const idOf = ({ vocabulary, added }: HfTokenizer, content: string): number | undefined =>
  added.find(token => token.content === content)?.id ?? vocabulary.get(content)

/** A token of tokenizer_config.json: its text, or an object with it. */
const contentOf = (entry: unknown): string | undefined => {
  const content = isObject(entry) ? entry.content : entry
  return typeof content === 'string' ? content : undefined
}

const firstId = (value: unknown): number | undefined => {
  const first = Array.isArray(value) ? value[0] : value
  return typeof first === 'number' && Number.isInteger(first) && first >= 0 ? first : undefined
}

/** tokenizer_config.json counts before config.json, and that before generation_config.json. */
const specialIds = (tokenizer: HfTokenizer, configs: TokenizerConfigs): Map<SpecialName, number> => {
  const ids = new Map<SpecialName, number>()
  for (const name of names) {
    const content = contentOf(configs.tokenizer?.[`${name}_token`])
    const id =
      (content === undefined ? undefined : idOf(tokenizer, content)) ??
      firstId(configs.model?.[`${name}_token_id`]) ??
      firstId(configs.generation?.[`${name}_token_id`])
    if (id !== undefined) ids.set(name, id)
  }
  const unknown = contentOf(tokenizer.model.unk_token)
  const id = unknown === undefined ? undefined : idOf(tokenizer, unknown)
  if (id !== undefined && !ids.has('unk')) ids.set('unk', id)
  return ids
}

interface Frame {
  /** Tokens before the text, and behind it. */
  readonly before: readonly string[]
  readonly after: readonly string[]
}

const templateFrame = (single: unknown): Frame => {
  const parts = Array.isArray(single) ? single.filter(isObject) : []
  const text = parts.findIndex(part => isObject(part.Sequence))
  const tokens = (some: readonly Json[]): string[] =>
    some.flatMap(({ SpecialToken }) => (isObject(SpecialToken) ? [String(SpecialToken.id)] : []))
  return { before: tokens(parts.slice(0, Math.max(0, text))), after: tokens(parts.slice(text + 1)) }
}

/** What a post_processor puts around one text. */
const frameOf = (node: unknown): Frame => {
  if (!isObject(node)) return { before: [], after: [] }
  if (node.type === 'TemplateProcessing') return templateFrame(node.single)
  if (node.type === 'RobertaProcessing' || node.type === 'BertProcessing') {
    const token = (pair: unknown): string[] => (Array.isArray(pair) ? [String(pair[0])] : [])
    return { before: token(node.cls), after: token(node.sep) }
  }
  const frames = node.type === 'Sequence' && Array.isArray(node.processors) ? node.processors.map(frameOf) : []
  return {
    before: frames.flatMap(({ before }) => before),
    after: frames.flatMap(({ after }) => after),
  }
}

/** llama.cpp adds bos before, eos behind, and nothing else. */
const added = (
  tokenizer: HfTokenizer,
  which: 'bos' | 'eos',
  tokens: readonly string[],
  ids: Map<SpecialName, number>,
): { readonly add: boolean; readonly note?: string } => {
  const [first] = tokens
  const id = first === undefined ? undefined : idOf(tokenizer, first)
  if (id === undefined) return { add: false }
  if (!ids.has(which)) ids.set(which, id)
  if (tokens.length === 1 && ids.get(which) === id) return { add: true }
  const shown = printable(tokens.join(''))
  return {
    add: false,
    note: `${printable(tokenizer.file)}: its post_processor adds ${shown}; llama.cpp can add only one ${which} token there, and adds none`,
  }
}

/** Another token that ends an answer. */
const turnEnd = ({ generation }: TokenizerConfigs, eos: number | undefined): number | undefined => {
  const ids = Array.isArray(generation?.eos_token_id) ? generation.eos_token_id : []
  return firstId(ids.find(id => id !== eos))
}

const templateEntries = (templates: readonly unknown[]): [string, string][] =>
  templates.flatMap(item => {
    if (!isObject(item) || typeof item.name !== 'string' || typeof item.template !== 'string') return []
    const suffix = item.name === 'default' ? '' : `.${item.name}`
    return [[`tokenizer.chat_template${suffix}`, item.template]]
  })

/** chat_template.jinja counts before tokenizer_config.json, as in transformers. */
const chatTemplates = ({ tokenizer, chatTemplate }: TokenizerConfigs): [string, GgufValue][] => {
  const stored = chatTemplate ?? tokenizer?.chat_template
  const entries: [string, string][] = Array.isArray(stored)
    ? templateEntries(stored)
    : typeof stored === 'string'
      ? [['tokenizer.chat_template', stored]]
      : []
  return entries.map(([key, template]) => [key, single('string', template)])
}

/**
 * Keys for special tokens, whether bos and eos are added, and chat templates.
 * @param size tokens of the model; ids beyond are left out
 */
export const specialMetadata = (
  tokenizer: HfTokenizer,
  configs: TokenizerConfigs,
  size: number,
): { readonly entries: readonly (readonly [string, GgufValue])[]; readonly notes: readonly string[] } => {
  const ids = specialIds(tokenizer, configs)
  const frame = frameOf(tokenizer.postProcessor)
  const bos = added(tokenizer, 'bos', frame.before, ids)
  const eos = added(tokenizer, 'eos', frame.after, ids)
  const eot = turnEnd(configs, ids.get('eos'))
  const named = [...ids].map(([name, id]) => [specialKeys[name] as string, id] as const)
  if (eot !== undefined) named.push(['eot_token_id', eot])
  return {
    entries: [
      ...named.filter(([, id]) => id < size).map(([key, id]) => [tokenizerKey(key), single('u32', id)] as const),
      [tokenizerKey('add_bos_token'), single('bool', bos.add)],
      [tokenizerKey('add_eos_token'), single('bool', eos.add)],
      ...chatTemplates(configs),
    ],
    notes: [bos.note, eos.note].filter(note => note !== undefined),
  }
}
