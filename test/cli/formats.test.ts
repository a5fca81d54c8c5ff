import { describe, expect, it } from 'vitest'
import type { Format } from '../../src/contracts.ts'
import { formats } from '../../src/format/index.ts'
import { run } from '../helpers/command-line.ts'

const all: readonly Format[] = Object.values(formats)

describe('formats', () => {
  it('prints what each format says of itself', async () => {
    const { code, stdout, stderr } = await run('formats')
    expect([code, stderr]).toEqual([0, ''])
    const sections = stdout.trimEnd().split('\n\n')
    expect(sections).toHaveLength(all.length)
    for (const [i, { name, facts }] of all.entries()) {
      expect(sections[i]).toMatch(new RegExp(`^${name}: `))
      for (const part of [facts.summary, facts.grids.join(', '), facts.groups, facts.loaders])
        expect(sections[i]).toContain(part)
    }
    expect(sections[0]).toContain('\n  default    --bits 4 --sym --group 128\n')
    expect(stdout).toContain('\n  default    --grid nf4 --group 64\n')
    expect(stdout).toContain('\n  default    the types of the mix\n')
    expect(sections[0]).toMatch(/\n {2}bits {7}2, 3, 4, 8\n.*\n.*\n {2}also {7}head\n/)
  })

  it('prints the same as one document', async () => {
    const { code, stdout } = await run('formats', '--json')
    expect(code).toBe(0)
    const document = JSON.parse(stdout)
    expect(document.formats.map(({ name }: { name: string }) => name)).toEqual(all.map(({ name }) => name))
    const { summary, grids, bits, groups, loaders } = formats.gptq.facts
    expect(document.formats[0]).toEqual({
      ...{ name: 'gptq', summary, grids, bits, groups, loaders, head: true, embedding: false },
      ...{ activations: false, dense: false, container: 'safetensors' },
      defaults: { grid: 'int', bits: 4, symmetric: true, group: 128 },
    })
  })
})
