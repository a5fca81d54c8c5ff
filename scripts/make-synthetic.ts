/**
 * Writes a Llama-shaped checkpoint in shards, to try how memory grows with the model:
 *   npx tsx scripts/make-synthetic.ts <folder> --blocks 27 [--filled] [--hidden 4096 --intermediate 14336]
 * Weights are holes of sparse files (zeros that take no space), or random with --filled. The tokenizer is that of fixtures/tiny-llama.
 */
import fs from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { planShards, shardIndex } from '../src/checkpoint/write-safetensors.ts'
import { fromFloat32 } from '../src/dtype/convert.ts'

const tiny = fileURLToPath(new URL('../fixtures/tiny-llama/', import.meta.url))
const command = new Command()
  .argument('<folder>')
  .option('--blocks <n>', '', Number, 27)
  .option('--hidden <n>', '', Number, 4096)
  .option('--intermediate <n>', '', Number, 14336)
  .option('--vocabulary <n>', '', Number, 32000)
  .option('--filled')
  .parse()
const [folder] = command.args
const { blocks, hidden, intermediate, vocabulary, filled } = command.opts<{
  blocks: number
  hidden: number
  intermediate: number
  vocabulary: number
  filled?: true
}>()
const headDim = Math.min(128, hidden / 4)
const [heads, kvHeads] = [hidden / headDim, hidden / headDim / 4]
const info = (name: string, ...shape: number[]) => ({
  name,
  dtype: 'BF16' as const,
  shape,
  bytes: 2 * shape.reduce((a, b) => a * b, 1),
})
const tensors = [
  info('model.embed_tokens.weight', vocabulary, hidden),
  ...Array.from({ length: blocks }, (_, i) => `model.layers.${i}.`).flatMap(prefix => [
    info(`${prefix}input_layernorm.weight`, hidden),
    info(`${prefix}self_attn.q_proj.weight`, heads * headDim, hidden),
    info(`${prefix}self_attn.k_proj.weight`, kvHeads * headDim, hidden),
    info(`${prefix}self_attn.v_proj.weight`, kvHeads * headDim, hidden),
    info(`${prefix}self_attn.o_proj.weight`, hidden, heads * headDim),
    info(`${prefix}post_attention_layernorm.weight`, hidden),
    info(`${prefix}mlp.gate_proj.weight`, intermediate, hidden),
    info(`${prefix}mlp.up_proj.weight`, intermediate, hidden),
    info(`${prefix}mlp.down_proj.weight`, hidden, intermediate),
  ]),
  info('model.norm.weight', hidden),
]
fs.mkdirSync(folder, { recursive: true })
const shards = planShards(tensors, 5e9)
let state = 1
const random = (): number => {
  state ^= state << 13
  state ^= state >>> 17
  state ^= state << 5
  return (state >>> 0) / 2 ** 31 - 1
}
for (const { file, header, tensors: placed, bytes } of shards) {
  const descriptor = fs.openSync(join(folder, file), 'w')
  fs.writeSync(descriptor, header)
  fs.ftruncateSync(descriptor, bytes)
  for (const { shape, offset, bytes: size } of filled ? placed : []) {
    const norm = shape.length === 1
    const piece = Float32Array.from({ length: Math.min(size / 2, 2 ** 20) }, () => (norm ? 1 : random() * 0.03))
    for (let at = 0; at < size; at += 2 * piece.length) {
      const part = piece.subarray(0, Math.min(piece.length, (size - at) / 2))
      if (!norm) for (let i = 0; i < part.length; i += 97) part[i] = random() * 0.03
      fs.writeSync(descriptor, fromFloat32(part, 'BF16'), 0, 2 * part.length, offset + at)
    }
  }
  fs.closeSync(descriptor)
}
if (shards.length > 1) fs.writeFileSync(join(folder, 'model.safetensors.index.json'), shardIndex(shards))
const config = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: hidden,
  intermediate_size: intermediate,
  num_hidden_layers: blocks,
  num_attention_heads: heads,
  num_key_value_heads: kvHeads,
  head_dim: headDim,
  vocab_size: vocabulary,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  hidden_act: 'silu',
  tie_word_embeddings: true,
  torch_dtype: 'bfloat16',
}
fs.writeFileSync(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`)
for (const name of ['tokenizer.json', 'tokenizer_config.json']) fs.copyFileSync(join(tiny, name), join(folder, name))
process.stdout.write(`${folder}: ${shards.length} shards, ${shards.reduce((sum, { bytes }) => sum + bytes, 0)} bytes\n`)
