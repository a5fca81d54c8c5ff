import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { isDerived, permutedHeads, toGgufName, toHfName } from '../../src/gguf/names.ts'
import { interleavedRows, inverseOrder } from '../../src/gguf/permute.ts'
import { refusal } from '../checkpoint/support.ts'
import '../seed.ts'

const pairs = [
  ['model.embed_tokens.weight', 'token_embd.weight'],
  ['model.norm.weight', 'output_norm.weight'],
  ['lm_head.weight', 'output.weight'],
  ['model.layers.0.input_layernorm.weight', 'blk.0.attn_norm.weight'],
  ['model.layers.1.self_attn.q_proj.weight', 'blk.1.attn_q.weight'],
  ['model.layers.2.self_attn.k_proj.bias', 'blk.2.attn_k.bias'],
  ['model.layers.3.self_attn.v_proj.weight', 'blk.3.attn_v.weight'],
  ['model.layers.4.self_attn.o_proj.weight', 'blk.4.attn_output.weight'],
  ['model.layers.50.post_attention_layernorm.weight', 'blk.50.ffn_norm.weight'],
  ['model.layers.678.mlp.gate_proj.weight', 'blk.678.ffn_gate.weight'],
  ['model.layers.7.mlp.up_proj.bias', 'blk.7.ffn_up.bias'],
  ['model.layers.8.mlp.down_proj.weight', 'blk.8.ffn_down.weight'],
]

describe('names', () => {
  it.each(pairs)('%s is %s', (hf, gguf) => {
    expect(toGgufName(hf)).toBe(gguf)
    expect(toHfName(gguf)).toBe(hf)
    if (hf.startsWith('model.')) expect(toGgufName(hf.slice('model.'.length))).toBe(gguf)
  })

  it.each([
    'model.layers.0.self_attn.rotary_emb.inv_freq',
    'model.layers.0.block_sparse_moe.gate.weight',
    'model.layers.01.mlp.up_proj.weight',
    'model.layers.0.mlp.up_proj',
    'model.layers.0.constructor.weight',
    'constructor.weight',
    'model.model.norm.weight',
    '',
  ])('"%s" has none', name => expect(toGgufName(name)).toBeUndefined())

  it.each([
    'rope_freqs.weight',
    'blk.0.ffn_gate_exps.weight',
    'blk.00.attn_q.weight',
    'blk.0.attn_q',
    '__proto__.weight',
  ])('"%s" is of no module', name => expect(toHfName(name)).toBeUndefined())

  it('tells what transformers derives', () => {
    expect(isDerived('model.layers.0.self_attn.rotary_emb.inv_freq')).toBe(true)
    expect(isDerived('model.norm.weight')).toBe(false)
  })

  it('permutes q and k, by either name, and nothing else', () => {
    const heads = { heads: 8, kvHeads: 2 }
    const all = pairs.flat().map(name => [name, permutedHeads(name, heads)])
    expect(all.filter(([, count]) => count !== undefined)).toEqual([
      ['model.layers.1.self_attn.q_proj.weight', 8],
      ['blk.1.attn_q.weight', 8],
      ['model.layers.2.self_attn.k_proj.bias', 2],
      ['blk.2.attn_k.bias', 2],
    ])
  })
})

describe('order of rows', () => {
  it('interleaves the halves of each head', () => {
    expect([...interleavedRows(12, 2, 'q')]).toEqual([0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11])
  })

  it('is undone by its inverse', () => {
    const sizes = fc.tuple(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 6 }))
    fc.assert(
      fc.property(sizes, ([heads, half]) => {
        const order = interleavedRows(2 * heads * half, heads, 'q')
        const inverse = inverseOrder(order)
        expect([...order.map(row => inverse[row])]).toEqual([...order.keys()])
      }),
    )
  })

  it('refuses rows that are no heads', () => {
    expect(refusal(() => interleavedRows(10, 4, 'tensor "q"'))).toMatch(/^tensor "q": 10 rows are not 4 heads/)
    expect(refusal(() => interleavedRows(12, 4, 'tensor "q"'))).toMatch(/an even number of rows/)
  })
})
