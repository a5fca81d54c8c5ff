import { describe, expect, it } from 'vitest'
import { type Inputs, whatChanged } from '../../src/run/inputs.ts'

const sha256 = (digit: string): string => digit.repeat(64)
const inputs: Inputs = {
  version: '1.0.0',
  device: 'Some CPU',
  recipe: { method: 'gptq', bits: 4, calibration: { samples: 128 } },
  text: sha256('a'),
  imatrix: null,
  stats: null,
  model: { 'model.safetensors': { bytes: 9, sha256: sha256('b'), stamp: '1' } },
}

describe('whatChanged', () => {
  it('is nothing for the same inputs, wherever and whenever the files were written', () => {
    const elsewhere = { 'model.safetensors': { bytes: 9, sha256: sha256('b'), stamp: '2' } }
    expect(whatChanged(inputs, { ...inputs, model: elsewhere })).toEqual([])
  })

  it.each<[string, Partial<Inputs>, string]>([
    ['version', { version: '1.0.1' }, 'version: "1.0.0", now "1.0.1"'],
    ['device', { device: null }, 'device: "Some CPU", now null'],
    ['an importance matrix', { imatrix: sha256('c') }, 'the importance matrix'],
    ['an option', { recipe: { ...inputs.recipe, bits: 3 } }, 'recipe.bits: 4, now 3'],
    ['an option more', { recipe: { ...inputs.recipe, damp: 1 } }, 'recipe.damp: absent, now 1'],
    [
      'an option called as a method of objects',
      { recipe: { ...inputs.recipe, toString: 1 } },
      'recipe.toString: absent, now 1',
    ],
    ['text', { text: sha256('c') }, 'the calibration text'],
    [
      'a file',
      { model: { 'model.safetensors': { bytes: 9, sha256: sha256('d'), stamp: '1' } } },
      'the content of model.safetensors',
    ],
    ['no file', { model: {} }, 'the content of model.safetensors'],
  ])('names %s, in both directions', (_, change, message) => {
    expect(whatChanged(inputs, { ...inputs, ...change })).toEqual([message])
    expect(whatChanged({ ...inputs, ...change }, inputs)).toHaveLength(1)
  })
})
