/** ONNX Runtime cuts products among its threads by their shape, and some cuts change the order of a sum: the shapes of a real model. */
import { afterAll, describe, expect, it } from 'vitest'
import type { TensorInfo } from '../../../src/contracts.ts'
import { embed, type ReadWeight } from '../../../src/engine/ort/activations.ts'
import { createBlockPass } from '../../../src/engine/ort/forward.ts'
import { createEngine, type Engine } from '../../../src/engine/ort/session.ts'
import { buildModel } from '../../../src/model/graph.ts'
import { sameBits } from '../../helpers/fixture-model.ts'
import { randomWeights } from '../../helpers/linears.ts'

const engines = await Promise.all([1, 2, 3, 4].map(createEngine))
afterAll(async () => {
  for (const engine of engines) await engine.release()
})

interface Shape {
  readonly hidden: number
  readonly intermediate: number
  readonly heads: number
  readonly kvHeads: number
}

/** A llama of one block with random weights. */
const randomLlama = ({ hidden, intermediate, heads, kvHeads }: Shape) => {
  const head = hidden / heads
  const layer = 'model.layers.0'
  const shapes: Record<string, readonly number[]> = {
    'model.embed_tokens': [300, hidden],
    'model.norm': [hidden],
    [`${layer}.input_layernorm`]: [hidden],
    [`${layer}.post_attention_layernorm`]: [hidden],
    [`${layer}.self_attn.q_proj`]: [hidden, hidden],
    [`${layer}.self_attn.k_proj`]: [kvHeads * head, hidden],
    [`${layer}.self_attn.v_proj`]: [kvHeads * head, hidden],
    [`${layer}.self_attn.o_proj`]: [hidden, hidden],
    [`${layer}.mlp.gate_proj`]: [intermediate, hidden],
    [`${layer}.mlp.up_proj`]: [intermediate, hidden],
    [`${layer}.mlp.down_proj`]: [hidden, intermediate],
  }
  const tensors = new Map<string, TensorInfo>()
  const values = new Map<string, Float32Array>()
  for (const [index, [name, shape]] of Object.entries(shapes).entries()) {
    const [rows, columns = 1] = shape
    tensors.set(`${name}.weight`, { name: `${name}.weight`, dtype: 'F32', shape, bytes: 4 * rows * columns })
    values.set(`${name}.weight`, randomWeights(rows, columns, index + 1, shape.length === 1 ? 1 : 0.08))
  }
  const config = {
    model_type: 'llama',
    vocab_size: 300,
    hidden_size: hidden,
    intermediate_size: intermediate,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    num_hidden_layers: 1,
    tie_word_embeddings: true,
  }
  const read: ReadWeight = ({ tensor, rows }) => {
    const width = tensors.get(tensor)!.shape[1] ?? 1
    return rows ? values.get(tensor)!.subarray(rows[0] * width, rows[1] * width) : values.get(tensor)!
  }
  return { model: buildModel(config, tensors, 'config.json'), read }
}

/** Every tap and the block's output. */
const run = async (engine: Engine, { model, read }: ReturnType<typeof randomLlama>, sequences: Int32Array[]) => {
  const activations = embed(model, read, sequences)
  const pass = createBlockPass(engine, model.blocks[0], activations, read)
  const seen: Float32Array[] = []
  for (let segment = 0; segment <= model.blocks[0].stages.length; segment++)
    for await (const tap of pass.advance(linear => read(linear.weight))) if (tap) seen.push(tap.transposed.slice())
  return [...seen, ...activations.chunks.map(({ hidden }) => hidden)]
}

const shapes: Readonly<Record<string, Shape>> = {
  'smollm2-135m': { hidden: 576, intermediate: 1536, heads: 9, kvHeads: 3 },
  'a narrow model': { hidden: 64, intermediate: 172, heads: 8, kvHeads: 4 },
  'a model with many heads': { hidden: 896, intermediate: 512, heads: 14, kvHeads: 2 },
}

describe.each(Object.entries(shapes))('%s', (_, shape) => {
  const llama = randomLlama(shape)
  it.each([
    [1, 2],
    [1, 3],
    [1, 17],
    [2, 33],
    [1, 130],
    [3, 256],
  ])('%i sequences of %i tokens: the same bits on 1 to 4 threads', async (count, length) => {
    const sequences = Array.from({ length: count }, (_, s) =>
      Int32Array.from({ length }, (_, i) => (i * 37 + s * 101) % 300),
    )
    const expected = await run(engines[0], llama, sequences)
    for (const engine of engines.slice(1)) expect(sameBits(await run(engine, llama, sequences), expected)).toBe(true)
  })
})
