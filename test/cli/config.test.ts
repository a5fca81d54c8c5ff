import fs from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { commandTable } from '../../src/cli/command-table.ts'
import { configNames } from '../../src/cli/config.ts'
import { type OptionKey, optionSpec } from '../../src/cli/options.ts'
import { parse } from '../../src/cli/parse.ts'
import { QuantizeError } from '../../src/errors.ts'
import { readReport, run, tinyLlama } from '../helpers/command-line.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()

/** Options that a file and a command line give together. */
const options = (text: string, ...args: readonly string[]): Record<string, unknown> => {
  const parsed = parse(['m', '--config', 'r.yaml', ...args], () => text)
  if (!('options' in parsed)) throw new Error(parsed.command)
  return { ...parsed.options }
}

const refusal = (text: string, ...args: readonly string[]): string => {
  try {
    options(text, ...args)
  } catch (error) {
    if (error instanceof QuantizeError && error.code === 'bad-option') return error.message
    throw error
  }
  throw new Error('accepted')
}

describe('a file of options', () => {
  it('says what the command line would', () => {
    const text = `
method: gptq
bits: 4
group_size: 64
asym: true
clip: mse
damp: 1e-2
strict: false
format: [gptq:v2, compressed-tensors]
exclude: ['*.o_proj', '*.layers.0.*']
override:
  '*.down_proj': { bits: 8, group: 32 }
  '*.v_proj': bits:8,asym
`
    const typed = '--bits 4 --group 64 --asym --clip mse --damp 0.01 --format gptq:v2,compressed-tensors'
    const globs = ['--exclude=*.o_proj,*.layers.0.*']
    const overrides = ['--override=*.down_proj=bits:8,group:32', '--override=*.v_proj=bits:8,asym']
    const same = parse(['m', '--method', 'gptq', ...typed.split(' '), ...globs, ...overrides])
    expect({ command: 'quantize', options: options(text) }).toEqual(same)
  })

  it('false switches a switch off, and is no value', () => {
    expect(options('strict: false')).toMatchObject({ strict: false })
    for (const line of ['bits: false', 'wbits: false', 'exclude: false'])
      expect(refusal(line)).toContain('false is no value of it')
  })

  it('may be JSON', () => {
    expect(options('{"bits": 3, "group": "channel"}')).toMatchObject({ bits: 3, group: 'channel' })
  })

  it('gives way to the command line, whatever the spelling; overrides add up', () => {
    expect(options('bits: 4\ngroup: 64', '--wbits', '8')).toMatchObject({ bits: 8, group: 64 })
    expect(options('wbits: 4', '--bits=8')).toMatchObject({ bits: 8 })
    expect(options('sym: true', '--asym')).toMatchObject({ symmetric: false })
    const overrides = options("override: {'*.a': bits:8}", '--override', '*.b=bits:4').overrides
    expect(overrides).toEqual([
      { glob: '*.a', bits: 8 },
      { glob: '*.b', bits: 4 },
    ])
  })

  it.each([
    ['bitz: 4', '--config r.yaml: bitz: no such option; the nearest is bits'],
    ['json: true', '--config r.yaml: json belongs on the command line'],
    ['text: a.txt', '--config r.yaml: text: no such option'],
    ['bits: 99', '--bits 99'],
    ['bits: true', '--bits needs a value'],
    ['strict: 3', '--strict takes no value; got 3'],
    ['method: rtn\ndamp: 0.1', '--damp has no effect with --method rtn'],
    ['- bits', '--config r.yaml: it must hold names of options with their values'],
    ['', '--config r.yaml: it must hold names of options with their values'],
    ['bits: 4\nbits: 5', '--config r.yaml: Map keys must be unique'],
    ['bits: [4', '--config r.yaml: '],
    ['bits: null', '--config r.yaml: bits: '],
    ['a: &a [1, 1]\nb: [*a, *a]', '--config r.yaml: '],
    ['override: {"*.a": {bitz: 8}}', '--override *.a=bitz:8'],
  ])('%s is refused', (text, message) => expect(refusal(text)).toContain(message))

  it('knows every option of quantizing but those that it says', () => {
    const keys: readonly OptionKey[] = commandTable.quantize.options
    const left = keys.map(key => optionSpec(key).flag).filter(flag => !configNames().includes(flag))
    expect(left.sort()).toEqual(['config', 'json', 'quiet', 'verbose'])
  })

  it('is an error of one line or options, whatever it holds', () => {
    const texts = fc.oneof(
      fc.string(),
      fc.json(),
      fc
        .array(fc.constantFrom(...configNames(), ': ', '\n', '- ', '{', '}', '4', '&a ', '*a', '? ', '!!js '))
        .map(parts => parts.join('')),
    )
    fc.assert(
      fc.property(texts, text => {
        try {
          options(text)
        } catch (error) {
          expect(error).toBeInstanceOf(QuantizeError)
          expect((error as QuantizeError).message).not.toContain('\n')
        }
      }),
      { numRuns: 300 },
    )
  })

  it('runs', async () => {
    const file = join(folder, 'recipe.yaml')
    fs.writeFileSync(file, "method: rtn\nbits: 4\ngroup: 64\noverride:\n  '*.down_proj': bits:8\n")
    const output = join(folder, 'out')
    expect((await run(tinyLlama, '--config', file, '-o', output)).code).toBe(0)
    const { linears, recipe } = readReport(output)
    expect(recipe).toMatchObject({ method: 'rtn', bits: 4, group: 64 })
    expect(new Set(linears.map(({ name, bits }) => `${name.split('.').at(-1)} ${bits}`))).toContain('down_proj 8')
    const { code, stderr } = await run(tinyLlama, '--config', join(folder, 'none.yaml'), '-o', output)
    expect([code, stderr.match(/^error: /gm)?.length]).toEqual([3, 1])
    fs.writeFileSync(file, 'method: rtn\noverride: {"*.downproj": bits:8}\n')
    const unmatched = await run(tinyLlama, '--config', file, '-o', join(folder, 'unmatched'))
    expect([unmatched.code, unmatched.stderr]).toEqual([2, expect.stringContaining('down_proj')])
  })
})
