import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Block, Op } from '../../src/contracts.ts'
import { type ErrorCode, QuantizeError } from '../../src/errors.ts'
import { buildModel, knownModelTypes } from '../../src/model/graph.ts'
import { openFixture, type RawConfig, variants } from '../helpers/fixture-model.ts'

const fixtures = { llama: openFixture('tiny-llama'), opt: openFixture('transformers/opt') }
type Arch = keyof typeof fixtures

/** The fixture's model with fields replaced (undefined: left out). */
const withFields = (arch: Arch, fields: RawConfig) => {
  const { config, checkpoint } = fixtures[arch]
  return buildModel(JSON.parse(JSON.stringify({ ...config, ...fields })), checkpoint.tensors, 'config.json')
}

const refusal = (run: () => unknown): { code: ErrorCode; message: string } => {
  try {
    run()
  } catch (error) {
    expect(error).toBeInstanceOf(QuantizeError)
    return error as QuantizeError
  }
  return expect.fail('nothing was refused')
}

const inputsOf = (op: Op): readonly string[] =>
  op.op === 'attention' ? [op.q, op.k, op.v] : 'a' in op ? [op.a, op.b] : [op.x]

/** The name of what computes a tap: the norm of that weight, or the linear behind attention or element by element. */
const producers = ({ ops }: Block, tap: string): readonly string[] => {
  const op = ops.find(({ y }) => y === tap)!
  if (op.op === 'norm') return [op.weight.tensor.replace(/\.weight$/, '')]
  if (op.op === 'linear') return [op.linear]
  return inputsOf(op).flatMap(value => producers({ ops } as Block, value))
}

describe.each(['tiny-llama', ...variants.map(variant => `transformers/${variant}`)])('the graph of %s', folder => {
  const { model } = openFixture(folder)

  it('computes every value before it is read, and every tap before its linears', () => {
    for (const { ops, input, output, stages } of model.blocks) {
      const known = new Set([input])
      for (const op of ops) {
        expect(inputsOf(op).every(value => known.has(value))).toBe(true)
        expect(known.has(op.y)).toBe(false)
        known.add(op.y)
      }
      expect(known.has(output)).toBe(true)
      expect(stages.every(({ tap }) => known.has(tap))).toBe(true)
    }
  })

  it('has each linear in exactly one stage, whose tap is what it reads', () => {
    for (const { ops, stages } of model.blocks) {
      const read = new Map(ops.flatMap(op => (op.op === 'linear' ? [[op.linear, op.x] as const] : [])))
      const staged = stages.flatMap(({ tap, linears }) => linears.map(({ name }) => [name, tap] as const))
      expect(new Map(staged)).toEqual(read)
      expect(staged).toHaveLength(read.size)
      for (const { width, linears } of stages) expect(linears.every(linear => linear.in === width)).toBe(true)
    }
  })

  it('names where each tap comes from', () => {
    for (const block of model.blocks)
      for (const { tap, from } of block.stages) expect(producers(block, tap)).toContain(from.name)
  })

  it('says that runtimes fuse q, k, v and gate, up', () => {
    for (const { stages } of model.blocks)
      for (const { linears, share } of stages) expect(share).toBe(linears.length > 1 ? 'scheme' : undefined)
  })
})

describe('a config field that changes the function', () => {
  const changing: readonly (readonly [Arch, RawConfig])[] = [
    ['llama', { hidden_act: 'mish' }],
    ['llama', { sliding_window: 128 }],
    ['llama', { attention_multiplier: 0.5 }],
    ['llama', { final_logit_softcapping: 30 }],
    ['llama', { partial_rotary_factor: 0.5 }],
    ['llama', { num_local_experts: 8 }],
    ['llama', { use_qk_norm: true }],
    ['llama', { logit_scale: 0.25 }],
    ['llama', { is_causal: false }],
    ['llama', { layer_types: ['full_attention', 'sliding_attention', 'full_attention', 'full_attention'] }],
    ['llama', { architectures: ['LlamaForSequenceClassification'] }],
    ['llama', { rope_parameters: { rope_type: 'yarn', rope_theta: 10000, factor: 4 } }],
    ['llama', { rope_parameters: undefined, rope_scaling: { type: 'dynamic', factor: 2 } }],
    ['opt', { do_layer_norm_before: false }],
    ['opt', { word_embed_proj_dim: 16 }],
    ['opt', { _remove_final_layer_norm: true }],
    ['opt', { activation_function: 'tanh' }],
  ]
  it.each(changing)('is implemented or refused by name: %s %o', (arch, fields) => {
    const { code, message } = refusal(() => withFields(arch, fields))
    expect(code).toBe('unsupported')
    const [field] = Object.keys(fields).slice(-1)
    expect(message).toContain(field.startsWith('rope') ? 'rope' : field)
    expect(message).toContain('--method rtn')
  })

  it('is noted when nobody knows it', () => {
    expect(withFields('llama', { my_own_trick: 3 }).notes.join()).toContain('my_own_trick')
  })

  it('may be a storage or training field, which says nothing', () => {
    const fields = { use_cache: false, initializer_range: 1, dtype: 'float16', attention_dropout: 0.5 }
    expect(withFields('llama', fields).notes).toEqual(withFields('llama', {}).notes)
  })
})

describe('an unknown architecture', () => {
  it('is refused in one line that names the known ones', () => {
    const { code, message } = refusal(() => withFields('llama', { model_type: 'mamba' }))
    expect(code).toBe('unsupported')
    expect(message).toContain('"mamba"')
    for (const type of knownModelTypes) expect(message).toContain(type)
  })
})

describe('a config that is wrong', () => {
  it.each([
    [{ hidden_size: 0 }, 'hidden_size'],
    [{ hidden_size: 1e300 }, 'hidden_size'],
    [{ hidden_size: '128' }, 'hidden_size'],
    [{ num_attention_heads: 3 }, 'num_attention_heads'],
    [{ num_key_value_heads: -1 }, 'num_key_value_heads'],
    [{ head_dim: 1.5 }, 'head_dim'],
    [{ num_hidden_layers: 1e9 }, 'num_hidden_layers'],
    [{ num_hidden_layers: 9000 }, 'layers.4'],
    [{ vocab_size: undefined }, 'vocab_size'],
    [{ vocab_size: 1000 }, 'embed_tokens'],
    [{ intermediate_size: 383 }, 'gate_proj'],
    [{ rms_norm_eps: -1 }, 'rms_norm_eps'],
    [{ rms_norm_eps: {} }, 'rms_norm_eps'],
    [{ tie_word_embeddings: 'no' }, 'tie_word_embeddings'],
    [{ rope_parameters: [] }, 'rope_parameters'],
    [{ rope_parameters: { rope_type: 'default', rope_theta: 0 } }, 'rope_theta'],
    [{ model_type: 7 }, 'model_type'],
  ])('is one line that names the field: %o', (fields, name) => {
    const { code, message } = refusal(() => withFields('llama', fields))
    expect(code).toBe('bad-input')
    expect(message).toContain(name)
    expect(message).not.toContain('\n')
  })

  it('never ends in anything but a model or one clear error, whatever it holds', () => {
    const { config, checkpoint } = fixtures.llama
    const field = fc.constantFrom(...Object.keys(config), 'rope_scaling', 'sliding_window', '__proto__', 'toString')
    fc.assert(
      fc.property(fc.array(fc.tuple(field, fc.jsonValue()), { minLength: 1, maxLength: 4 }), changes => {
        const raw = Object.assign(JSON.parse(JSON.stringify(config)), Object.fromEntries(changes))
        try {
          expect(buildModel(raw, checkpoint.tensors, 'config.json').blocks).toHaveLength(raw.num_hidden_layers)
        } catch (error) {
          expect(error).toBeInstanceOf(QuantizeError)
          expect((error as Error).message).not.toMatch(/\p{Cc}/u)
          expect((error as Error).message.length).toBeLessThan(500)
        }
      }),
      { numRuns: 2000 },
    )
  })
})
