import { describe, expect, it } from 'vitest'
import type { AssembleFacts, LinearScheme } from '../../src/contracts.ts'
import { formats } from '../../src/format/index.ts'
import { schemeOf } from './linears.ts'

const block = 'model.layers.0.mlp'

describe('AWQ', () => {
  const facts = (kept: readonly string[]): AssembleFacts => ({
    ...{ linears: [schemeOf(`${block}.down_proj`, { out: 64, in: 64, bits: 4, groups: 1, order: 'none' })], kept },
    ...{ rest: [], untied: false, method: 'rtn', grid: 'int', bits: 4, symmetric: false, group: 64, actOrder: 'none' },
    ...{ damp: 0.01, clip: 'minmax', version: '0' },
  })
  const written = (kept: readonly string[]) =>
    JSON.parse(formats.awq.assemble({}, facts(kept)).get('config.json') as string).quantization_config

  it('names dense linears for each of its loaders', () => {
    const { modules_to_not_convert, dynamic } = written([`${block}.gate_proj`, `${block}.up_proj`])
    expect(modules_to_not_convert).toEqual([
      'lm_head',
      `${block}.gate_proj`,
      `${block}.up_proj`,
      `${block}.gate_up_proj`,
    ])
    const patterns = Object.keys(dynamic)
    expect(patterns.every(pattern => pattern.startsWith('-:'))).toBe(true)
    const matches = (name: string) => patterns.some(pattern => new RegExp(pattern.slice(2)).test(name))
    expect(['gate_proj', 'up_proj', 'gate_up_proj', 'down_proj'].map(name => matches(`${block}.${name}`))).toEqual([
      true,
      true,
      true,
      false,
    ])
    expect(written([])).not.toHaveProperty('dynamic')
  })
})

describe('fp8', () => {
  const scheme = (out: number, inputs: number, group: LinearScheme['group']): LinearScheme => ({
    ...schemeOf('m', { out, in: inputs, bits: 8, groups: 1, order: 'none' }),
    ...{ grid: 'fp8', symmetric: true, group, groups: group === 'block' ? Math.ceil(inputs / 128) : 1 },
  })

  it.each([
    [256, 384, undefined],
    [64, 100, undefined],
    [192, 128, /\[192, 128\] is no whole number of blocks.*--group tensor/],
    [128, 576, /\[128, 576\]/],
  ])('holds [%i, %i] in blocks, or not', (out, inputs, sentence) => {
    const refusal = formats.fp8.refuses(scheme(out, inputs, 'block'))
    if (sentence) expect(refusal).toMatch(sentence)
    else expect(refusal).toBeUndefined()
    expect(formats.fp8.refuses(scheme(out, inputs, 'tensor'))).toBeUndefined()
  })
})
