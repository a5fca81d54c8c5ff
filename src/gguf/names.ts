/** Names of tensors of the llama architecture, as transformers and llama.cpp have them (gguf-py/gguf/tensor_mapping.py). */
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'

const whole: Readonly<Record<string, string>> = {
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  lm_head: 'output',
}

const inBlock: Readonly<Record<string, string>> = {
  input_layernorm: 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  post_attention_layernorm: 'ffn_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}

const inverse = (names: Readonly<Record<string, string>>): ReadonlyMap<string, string> =>
  new Map(Object.entries(names).map(([hf, gguf]) => [gguf, hf]))

const hfWhole = inverse(whole)
const hfInBlock = inverse(inBlock)
const ggufWhole = new Map(Object.entries(whole))
const ggufInBlock = new Map(Object.entries(inBlock))

const indexPattern = '(0|[1-9][0-9]{0,5})'
const hfBlock = new RegExp(`^model\\.layers\\.${indexPattern}\\.(.+)$`)
const ggufBlock = new RegExp(`^blk\\.${indexPattern}\\.(.+)$`)

/** Factors of rotary frequencies (llama3 scaling): of no tensor, but of config.json. */
export const ropeFactorsName = 'rope_freqs.weight'

/** `.weight` or `.bias` off the end. */
const split = (name: string): readonly [module: string, kind: string] | undefined => {
  const [, module, kind] = /^(.+)(\.weight|\.bias)$/.exec(name) ?? []
  return module === undefined ? undefined : [module, kind]
}

/** Whether transformers derives this tensor, so that it is no part of a model (rotary frequencies of old checkpoints). */
export const isDerived = (name: string): boolean => name.endsWith('.rotary_emb.inv_freq')

/** llama.cpp's name of transformers' tensor; undefined for one that the llama architecture does not have. */
export const toGgufName = (name: string): string | undefined => {
  const [module, kind] = split(name) ?? ['', '']
  const full = /^(layers\.|embed_tokens$|norm$)/.test(module) ? `model.${module}` : module // of a LlamaModel without head
  const known = ggufWhole.get(full)
  if (known !== undefined) return known + kind
  const [, index, part = ''] = hfBlock.exec(full) ?? []
  const inner = ggufInBlock.get(part)
  return inner === undefined ? undefined : `blk.${index}.${inner}${kind}`
}

/** llama.cpp's name of a module's weight. @throws QuantizeError unsupported for one that the llama architecture does not have */
export const ggufWeight = (module: string): string => {
  const name = toGgufName(`${module}.weight`)
  if (name !== undefined) return name
  throw new QuantizeError('unsupported', `${printable(module)}: no weight of the llama architecture of llama.cpp`)
}

/** The inverse of `toGgufName`; undefined too for `rope_freqs.weight`. */
export const toHfName = (name: string): string | undefined => {
  const [module, kind] = split(name) ?? ['', '']
  const known = hfWhole.get(module)
  if (known !== undefined) return known + kind
  const [, index, part = ''] = ggufBlock.exec(module) ?? []
  const inner = hfInBlock.get(part)
  return inner === undefined ? undefined : `model.layers.${index}.${inner}${kind}`
}

export interface Heads {
  readonly heads: number
  readonly kvHeads: number
}

/**
 * Into how many heads the rows of a tensor (weight or bias) are divided that llama.cpp keeps in another order (permute.ts); undefined for
 * all others.
 * @param name of transformers or of llama.cpp
 */
export const permutedHeads = (name: string, { heads, kvHeads }: Heads): number | undefined => {
  const [, which] = /\.(?:self_attn\.([qk])_proj|attn_([qk]))\.(?:weight|bias)$/.exec(name)?.filter(Boolean) ?? []
  return which === undefined ? undefined : which === 'q' ? heads : kvHeads
}
