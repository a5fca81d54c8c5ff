/** Small models whose linears have biases, with the tokenizer of tiny-llama. */
import fs from 'node:fs'
import { join } from 'node:path'
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.ts'
import { planFile } from '../../src/checkpoint/shard-plan.ts'
import { fromFloat32 } from '../../src/dtype/convert.ts'
import type { WeightDtype } from '../../src/dtype/dtype.ts'
import { nodeFiles } from '../../src/io/files.ts'
import { tinyLlama } from './command-line.ts'
import { uniform } from './linears.ts'

interface Tensor {
  readonly shape: readonly number[]
  readonly bytes: Uint8Array
}

const writeModel = (
  folder: string,
  config: object,
  tensors: Readonly<Record<string, Tensor>>,
  dtype: WeightDtype,
): string => {
  fs.cpSync(tinyLlama, folder, { recursive: true })
  const infos = Object.entries(tensors).map(([name, { shape, bytes }]) => ({
    ...{ name, dtype, shape },
    bytes: bytes.byteLength,
  }))
  const { header, tensors: placed, bytes } = planFile('model.safetensors', infos, { format: 'pt' })
  const file = new Uint8Array(bytes)
  file.set(header)
  for (const { name, offset } of placed) file.set(tensors[name].bytes, offset)
  fs.writeFileSync(join(folder, 'model.safetensors'), file)
  fs.writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  return folder
}

/** Values around a middle, of a dtype. */
const drawn = (
  random: () => number,
  dtype: WeightDtype,
  shape: readonly number[],
  size: number,
  middle = 0,
): Tensor => {
  const length = shape.reduce((a, b) => a * b, 1)
  return {
    shape,
    bytes: fromFloat32(
      Float32Array.from({ length }, () => middle + size * random()),
      dtype,
    ),
  }
}

/** An OPT of random weights, its inputs far from a mean of 0. Returns the folder. */
export const writeOpt = (folder: string, dtype: WeightDtype, layers = 2): string => {
  const [hidden, inner, vocabulary, positions] = [64, 128, 1024, 128]
  const random = uniform(11)
  const tensor = (shape: readonly number[], size: number, middle?: number) => drawn(random, dtype, shape, size, middle)
  const linear = (name: string, out: number, inputs: number) => ({
    [`${name}.weight`]: tensor([out, inputs], 0.2),
    [`${name}.bias`]: tensor([out], 0.3),
  })
  const norm = (name: string) => ({
    [`${name}.weight`]: tensor([hidden], 0.5, 1),
    [`${name}.bias`]: tensor([hidden], 0.5),
  })
  const block = (name: string) => ({
    ...Object.assign({}, ...['q', 'k', 'v'].map(part => linear(`${name}.self_attn.${part}_proj`, hidden, hidden))),
    ...linear(`${name}.self_attn.out_proj`, hidden, hidden),
    ...norm(`${name}.self_attn_layer_norm`),
    ...linear(`${name}.fc1`, inner, hidden),
    ...linear(`${name}.fc2`, hidden, inner),
    ...norm(`${name}.final_layer_norm`),
  })
  const blocks = Array.from({ length: layers }, (_, i) => block(`model.decoder.layers.${i}`))
  const config = {
    ...{ model_type: 'opt', architectures: ['OPTForCausalLM'], do_layer_norm_before: true, enable_bias: true },
    ...{ hidden_size: hidden, ffn_dim: inner, num_hidden_layers: layers, num_attention_heads: 4 },
    ...{ vocab_size: vocabulary, max_position_embeddings: positions, word_embed_proj_dim: hidden },
    ...{ activation_function: 'relu', tie_word_embeddings: true },
  }
  const tensors = {
    'model.decoder.embed_tokens.weight': tensor([vocabulary, hidden], 1),
    'model.decoder.embed_positions.weight': tensor([positions + 2, hidden], 0.3),
    ...norm('model.decoder.final_layer_norm'),
    ...Object.assign({}, ...blocks),
  }
  return writeModel(folder, config, tensors, dtype)
}

/** tiny-llama's first blocks with biases in attention: the shape of Qwen2, as `llama` has it, but for that of o_proj. Returns the folder. */
export const writeBiasedLlama = (folder: string, layers = 1): string => {
  const source = openCheckpoint(tinyLlama, nodeFiles)
  const random = uniform(12)
  const stored = [...source.tensors.values()].filter(
    ({ name }) => Number(/layers\.(\d+)/.exec(name)?.[1] ?? 0) < layers,
  )
  const tensors: Record<string, Tensor> = {}
  for (const { name, shape, read } of stored) {
    tensors[name] = { shape, bytes: read() }
    if (name.includes('self_attn')) tensors[name.replace('.weight', '.bias')] = drawn(random, 'BF16', [shape[0]], 0.3)
  }
  source.close()
  const config = JSON.parse(fs.readFileSync(join(tinyLlama, 'config.json'), 'utf8'))
  return writeModel(folder, { ...config, attention_bias: true, num_hidden_layers: layers }, tensors, 'BF16')
}
