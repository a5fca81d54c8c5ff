import { describe, expect, it } from 'vitest'
import type { AssembleFacts, LinearScheme } from '../../src/contracts.ts'
import { formats } from '../../src/format/index.ts'
import { infoMap } from './linears.ts'

const block = (index: number, name: string): string => `model.layers.${index}.${name}`

const scheme = (name: string, change: Partial<LinearScheme> = {}): LinearScheme => ({
  name,
  role: 'linear',
  dtype: 'F16',
  grid: 'int',
  out: 256,
  in: 256,
  bits: 4,
  symmetric: true,
  group: 128,
  groups: 2,
  actOrder: 'static',
  ...change,
})

const facts = (change: Partial<AssembleFacts> = {}): AssembleFacts => ({
  linears: ['self_attn.q_proj', 'self_attn.k_proj', 'mlp.down_proj'].map(name => scheme(block(0, name))),
  kept: [],
  rest: [],
  untied: false,
  method: 'gptq',
  grid: 'int',
  bits: 4,
  symmetric: true,
  group: 128,
  actOrder: 'static',
  damp: 0.01,
  clip: 'minmax',
  version: '1.2.3',
  ...change,
})

/** The quantization config that assemble writes, from quantize_config.json. */
const written = (change: Partial<AssembleFacts> = {}, name: keyof typeof formats = 'gptq'): Record<string, unknown> =>
  JSON.parse(formats[name].assemble(undefined, facts(change)).get('quantize_config.json') as string)

describe('assemble', () => {
  it('amends config.json: every other key and the order stay', () => {
    const source = { model_type: 'llama', quantization_config: { old: true }, hidden_size: 256, unknown: { a: [1] } }
    const files = formats.gptq.assemble(source, facts())
    expect([...files.keys()].sort()).toEqual(['config.json', 'quantize_config.json'])
    expect(files.get('config.json')).toBe(
      `${JSON.stringify({ ...source, quantization_config: JSON.parse(files.get('quantize_config.json') as string) }, null, 2)}\n`,
    )
    expect(Object.keys(JSON.parse(files.get('config.json') as string))).toEqual(Object.keys(source))
    expect(source.quantization_config).toEqual({ old: true })
  })

  it('writes only quantize_config.json for a lone weights file', () => {
    expect([...formats.gptq.assemble(undefined, facts()).keys()]).toEqual(['quantize_config.json'])
  })

  it('says what loaders ask for, byte for byte', () => {
    expect(formats.gptq.assemble(undefined, facts()).get('quantize_config.json')).toBe(`{
  "quant_method": "gptq",
  "checkpoint_format": "gptq",
  "format": "gptq",
  "method": "gptq",
  "bits": 4,
  "group_size": 128,
  "desc_act": false,
  "sym": true,
  "lm_head": false,
  "pack_dtype": "int32",
  "true_sequential": true,
  "damp_percent": 0.01,
  "static_groups": true,
  "meta": {
    "quantizer": [
      "quantize-cli:1.2.3"
    ],
    "damp_percent": 0.01,
    "static_groups": true,
    "true_sequential": true
  }
}
`)
  })

  it.each<[string, Partial<AssembleFacts>, object]>([
    ['channel', { group: 'channel' }, { group_size: -1, desc_act: false }],
    ['tensor', { group: 'tensor' }, { group_size: -1 }],
    ['asymmetric 3 bits', { symmetric: false, bits: 3 }, { sym: false, bits: 3 }],
    ['g_idx', { actOrder: 'g_idx' }, { desc_act: true, act_group_aware: false, static_groups: false }],
    ['g_idx of one group', { actOrder: 'g_idx', group: 'channel' }, { desc_act: false }],
    ['a quantized head', { linears: [scheme('lm_head')] }, { lm_head: true }],
  ])('%s', (_, change, expected) => {
    expect(written(change)).toMatchObject(expected)
  })

  it('keeps damp_percent inside (0, 1), and out of a method without damping', () => {
    for (const change of [{ damp: 0 }, { damp: 1 }, { damp: 2 }, { method: 'rtn' }]) {
      expect(written(change)).not.toHaveProperty('damp_percent')
      expect(written(change).meta).not.toHaveProperty('damp_percent')
    }
    expect(written({ method: 'rtn' })).not.toHaveProperty('true_sequential')
  })

  it('v2 differs in its name alone', () => {
    const { checkpoint_format, format, ...rest } = written({}, 'gptq:v2')
    expect([checkpoint_format, format]).toEqual(['gptq_v2', 'gptq_v2'])
    expect(written()).toMatchObject(rest)
  })

  it('has no null anywhere', () => {
    expect(JSON.stringify(written({ kept: [block(0, 'mlp.up_proj')], actOrder: 'none' }))).not.toContain('null')
  })
})

/** How GPTQModel and vLLM read `dynamic`: the first pattern that matches from the start wins. */
const resolved = (dynamic: Record<string, object>, module: string): object | false | undefined => {
  for (const [pattern, overrides] of Object.entries(dynamic)) {
    if (new RegExp(`^(?:${pattern.replace(/^[-+]:/, '')})`).test(module))
      return pattern.startsWith('-:') ? false : overrides
  }
  return undefined
}

describe('modules that are not as the defaults say', () => {
  it('kept ones are declared dense, by exact name', () => {
    const config = written({ kept: [block(1, 'mlp.down_proj')] })
    const dynamic = config.dynamic as Record<string, object>
    expect(Object.keys(dynamic)).toEqual(['-:^model\\.layers\\.1\\.mlp\\.down_proj$'])
    expect(resolved(dynamic, block(1, 'mlp.down_proj'))).toBe(false)
    for (const other of [block(11, 'mlp.down_proj'), block(0, 'mlp.down_proj'), 'model_layers.1.mlp.down_proj'])
      expect(resolved(dynamic, other)).toBeUndefined()
  })

  it('the fused name too, where all its shards are kept', () => {
    const dynamic = written({ kept: [block(0, 'mlp.gate_proj'), block(0, 'mlp.up_proj'), block(1, 'mlp.up_proj')] })
      .dynamic as Record<string, object>
    expect(resolved(dynamic, block(0, 'mlp.gate_up_proj'))).toBe(false)
    expect(resolved(dynamic, block(1, 'mlp.gate_up_proj'))).toBeUndefined()
  })

  it('another group, bit width or symmetry is an override; the same in other words is not', () => {
    const linears = [
      scheme(block(0, 'mlp.down_proj'), { in: 192, group: 64, groups: 3 }),
      scheme(block(1, 'mlp.down_proj'), { bits: 8, symmetric: false, group: 'channel', groups: 1 }),
      scheme(block(2, 'mlp.down_proj'), { in: 128, group: 'channel', groups: 1 }),
      scheme(block(3, 'mlp.down_proj')),
    ]
    const dynamic = written({ linears }).dynamic as Record<string, object>
    expect(linears.map(({ name }) => resolved(dynamic, name))).toEqual([
      { group_size: 64 },
      { bits: 8, sym: false, group_size: -1 },
      undefined,
      undefined,
    ])
    expect(Object.keys(dynamic).every(pattern => pattern.startsWith('+:^'))).toBe(true)
  })

  it('a fused name is overridden when its shards are', () => {
    const linears = ['q_proj', 'k_proj', 'v_proj', 'o_proj'].map(name =>
      scheme(block(0, `self_attn.${name}`), name === 'o_proj' ? {} : { bits: 8 }),
    )
    const dynamic = written({ linears }).dynamic as Record<string, object>
    expect(resolved(dynamic, block(0, 'self_attn.qkv_proj'))).toEqual({ bits: 8 })
    expect(resolved(dynamic, block(0, 'self_attn.o_proj'))).toBeUndefined()
  })

  it('transformers gets the list of modules in a block, or full names where blocks differ', () => {
    expect(written({ kept: [block(0, 'mlp.up_proj')] }).modules_in_block_to_quantize).toEqual([
      ['self_attn.q_proj', 'self_attn.k_proj', 'mlp.down_proj'],
    ])
    expect(written({ kept: [block(1, 'mlp.down_proj')] }).modules_in_block_to_quantize).toEqual([
      [block(0, 'self_attn.q_proj'), block(0, 'self_attn.k_proj'), block(0, 'mlp.down_proj')],
    ])
    expect(written()).not.toHaveProperty('modules_in_block_to_quantize')
    expect(written()).not.toHaveProperty('dynamic')
  })

  it('detect reads back what assemble wrote', () => {
    const linears = [
      scheme(block(0, 'mlp.up_proj'), { out: 64 }),
      scheme(block(0, 'mlp.down_proj'), { in: 192, group: 64, groups: 3 }),
    ]
    const tensors = infoMap(linears.flatMap(linear => formats.gptq.layout(linear)))
    const config = { quantization_config: written({ linears, kept: [block(0, 'self_attn.o_proj')] }) }
    expect([...formats.gptq.detect(tensors, { 'config.json': config })!.values()]).toEqual(linears)
  })
})
