import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { commandNames, commandTable, flagsOf } from '../../src/cli/command-table.ts'
import { cliDocs, recipeSchema } from '../../src/cli/docs.ts'
import { exitTable } from '../../src/cli/exits.ts'
import { optionSpec } from '../../src/cli/options.ts'
import { helpText } from '../../src/cli/program.ts'
import { exitCodes } from '../../src/errors.ts'

describe('docs/cli.md', () => {
  it('is what scripts/make-cli-docs.ts makes', () =>
    expect(readFileSync(new URL('../../docs/cli.md', import.meta.url), 'utf8')).toBe(cliDocs()))
  it('and so is docs/recipe.schema.json', () =>
    expect(readFileSync(new URL('../../docs/recipe.schema.json', import.meta.url), 'utf8')).toBe(recipeSchema()))
  it('has every exit code', () => {
    for (const exitCode of [0, ...Object.values(exitCodes), 70, 130, 143])
      expect(cliDocs()).toContain(`| ${exitCode} | `)
    expect(exitTable.map(row => row.exitCode)).toEqual([0, 1, 2, 3, 4, 5, 70, 130, 143])
  })
})

describe('docs/recipe.schema.json', () => {
  const { properties } = JSON.parse(recipeSchema())
  const valued = commandTable.quantize.options.map(optionSpec).filter(({ value, repeats }) => value && !repeats)

  it.each(valued.map(({ flag, value }) => [flag, value!] as const))(
    'lists words for --%s that it takes',
    (flag, value) => {
      for (const word of properties[flag]?.enum ?? []) expect(() => value.parse(word, flag)).not.toThrow()
    },
  )

  it.each(['bits', 'head-bits', 'group', 'alpha', 'activations'])('lists none for --%s, which takes more', flag =>
    expect(properties[flag].enum).toBeUndefined(),
  )
})

describe.each(commandNames)('help of %s', name => {
  it.each([60, 80, 200])('lists each option once, at %i columns', columns => {
    const listed = [...helpText(name, columns).matchAll(/^ {2}(?:-\w, )?--([\w-]+)/gm)].map(([, flag]) => flag)
    const expected = commandTable[name].options.flatMap(key => {
      const { flag, opposite } = optionSpec(key)
      return opposite ? [flag, opposite] : [flag]
    })
    expect(listed).toEqual([...expected, 'version', 'help'])
  })
  it('has no flag with two meanings', () => expect(new Set(flagsOf(name)).size).toBe(flagsOf(name).length))
  it('shows each default once, as text', () => {
    const text = helpText(name, 1000)
    for (const key of commandTable[name].options) {
      const { flag, shownDefault } = optionSpec(key)
      const line = text.split('\n').find(candidate => candidate.includes(`--${flag} `) && /^ {2}-/.test(candidate))
      const defaults = [...(line ?? '').matchAll(/\(default: (.*)\)/g)].map(([, value]) => value)
      expect([flag, ...defaults]).toEqual(shownDefault ? [flag, shownDefault] : [flag])
    }
  })
})
