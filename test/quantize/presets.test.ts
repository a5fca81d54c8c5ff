import { describe, expect, it } from 'vitest'
import { dataFreeMethods, methodNamed, methods, needsText } from '../../src/method/index.ts'

describe('methods', () => {
  it.each(Object.keys(methods))('%s is found by its name, in any case', name => {
    expect(methodNamed(name).name).toBe(name)
    expect(methodNamed(name.toUpperCase())).toBe(methodNamed(name))
  })

  it.each(['', 'awk', 'toString', 'gptq '])('"%s" is no method; those that there are are named', name => {
    expect(() => methodNamed(name)).toThrow(
      expect.objectContaining({ code: 'bad-option', message: expect.stringContaining('use rtn or gptq or awq') }),
    )
  })

  it('without data: rtn, llm.int8', () => expect(dataFreeMethods()).toEqual(['rtn', 'llm.int8']))

  it('need text where errors are fed back, scales searched or clips by outputs', () => {
    const data = Object.values(methods).filter(needsText)
    expect(data.map(({ name }) => name)).toEqual(['gptq', 'awq', 'smoothquant'])
    const parts = { rounding: 'nearest', transform: 'none', clip: 'minmax', activationScales: 'dynamic' } as const
    expect(needsText(parts)).toBe(false)
    for (const one of [
      { rounding: 'gptq' },
      { transform: 'smoothquant' },
      { clip: 'awq' },
      { activationScales: 'minmax' },
      { biasCorrection: true },
    ] as const)
      expect(needsText({ ...parts, ...one })).toBe(true)
  })

  it('are documented presets', () => {
    const common = { bits: 4, symmetric: true, group: 128, clip: 'minmax' }
    expect(methods.rtn).toMatchObject({ ...common, rounding: 'nearest' })
    expect(methods.gptq).toMatchObject({ ...common, rounding: 'gptq', actOrder: 'static', damp: 0.01 })
  })
})
