import { describe, expect, it } from 'vitest'
import { dataFreeMethods, methodNamed, methods } from '../../src/method/index.ts'

describe('methods', () => {
  it.each(Object.keys(methods))('%s is found by its name, in any case', name => {
    expect(methodNamed(name).name).toBe(name)
    expect(methodNamed(name.toUpperCase())).toBe(methodNamed(name))
  })

  it.each(['', 'awq', 'toString', 'gptq '])('"%s" is no method; those that there are are named', name => {
    expect(() => methodNamed(name)).toThrow(
      expect.objectContaining({ code: 'bad-option', message: expect.stringContaining('use rtn or gptq') }),
    )
  })

  it('without data: rtn', () => expect(dataFreeMethods()).toEqual(['rtn']))

  it('need statistics exactly where errors are fed back', () => {
    for (const { rounding, needs } of Object.values(methods)) expect(needs.length > 0).toBe(rounding === 'gptq')
  })

  it('are documented presets', () => {
    const common = { bits: 4, symmetric: true, group: 128, clip: 'minmax' }
    expect(methods.rtn).toMatchObject({ ...common, rounding: 'nearest' })
    expect(methods.gptq).toMatchObject({ ...common, rounding: 'gptq', actOrder: 'static', damp: 0.01 })
  })
})
