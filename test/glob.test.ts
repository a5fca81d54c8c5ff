import fc from 'fast-check'
import { expect, it } from 'vitest'
import { matchesGlob } from '../src/glob.ts'

it.each([
  ['*.q_proj', 'model.layers.0.self_attn.q_proj', true],
  ['*.q_proj', 'model.layers.0.self_attn.q_proj_b', false],
  ['model.layers.?.mlp.*', 'model.layers.3.mlp.up_proj', true],
  ['model.layers.?.mlp.*', 'model.layers.13.mlp.up_proj', false],
  ['lm_head', 'lm_head', true],
  ['lm.head', 'lm_head', false],
  ['*', '', true],
  ['', 'a', false],
  ['a*a', 'a', false],
  ['*down*', 'x.down_proj', true],
])('%s against %s: %s', (glob, name, expected) => expect(matchesGlob(glob, name)).toBe(expected))

it('agrees with the regular expression that says the same', () => {
  const text = fc.string({ unit: fc.constantFrom('a', 'b', '.', '*', '?'), maxLength: 8 })
  const name = fc.string({ unit: fc.constantFrom('a', 'b', '.'), maxLength: 8 })
  fc.assert(
    fc.property(text, name, (glob, word) => {
      const pattern = glob.replaceAll('.', '\\.').replaceAll('*', '.*').replaceAll('?', '.')
      expect(matchesGlob(glob, word)).toBe(new RegExp(`^${pattern}$`, 's').test(word))
    }),
    { numRuns: 2000 },
  )
})

it('does not explode', () => expect(matchesGlob(`${'*a'.repeat(200)}b`, 'a'.repeat(20_000))).toBe(false))
