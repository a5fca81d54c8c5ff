import { describe, expect, it } from 'vitest'
import { withLegacyRope } from '../../src/model/legacy-rope.ts'

describe('withLegacyRope', () => {
  it('adds the keys of older loaders, and leaves those that are there', () => {
    const parameters = { rope_theta: 100000, rope_type: 'default' }
    expect(withLegacyRope({ rope_parameters: parameters })).toEqual({ rope_parameters: parameters, rope_theta: 100000 })
    const llama3 = { rope_theta: 5e5, rope_type: 'llama3', factor: 8 }
    expect(withLegacyRope({ rope_parameters: llama3 })).toEqual({
      rope_parameters: llama3,
      rope_theta: 5e5,
      rope_scaling: { rope_type: 'llama3', factor: 8 },
    })
    const both = { rope_parameters: parameters, rope_theta: 100000, x: 1 }
    expect(withLegacyRope(both)).toEqual(both)
  })

  it.each([[{ rope_theta: 10000 }], [{}], [{ rope_parameters: { full_attention: { rope_theta: 1 } } }]])(
    'leaves %j as it is',
    config => expect(withLegacyRope(config)).toEqual(config),
  )
})
