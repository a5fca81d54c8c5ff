import { describe, expect, it } from 'vitest'
import { parseJson, parseJsonObject } from '../../src/io/parse-json.ts'
import { refusal } from '../checkpoint/support.ts'

const nested = (depth: number, inner = ''): string => `${'['.repeat(depth)}${inner}${']'.repeat(depth)}`

describe('JSON of strangers', () => {
  it('is what JSON.parse makes of it, to 64 levels', () => {
    expect(parseJson(nested(64), 'f')).toEqual(JSON.parse(nested(64)))
    expect(refusal(() => parseJson(nested(65), 'f'))).toBe('f: its JSON is nested deeper than 64')
    expect(refusal(() => parseJson(`{"a":${'[{"a":'.repeat(40)}`, 'f'))).toMatch(/nested deeper/)
  })

  it('counts no brackets within strings', () => {
    const text = nested(60, JSON.stringify(`\\"${'[{'.repeat(50)}"\\`))
    expect(parseJson(text, 'f')).toEqual(JSON.parse(text))
    expect(refusal(() => parseJson(`"\\\\"${nested(65)}`, 'f'))).toMatch(/nested deeper/)
    expect(refusal(() => parseJson(`"${nested(65)}`, 'f'))).toMatch(/is not JSON/)
  })

  it('counts depth, not brackets', () => {
    const text = `[${'[],{},'.repeat(100)}0]`
    expect(parseJson(text, 'f')).toEqual(JSON.parse(text))
  })

  it.each(['[]', 'null', '1', '"a"'])('must be an object where one is asked for, not %s', text => {
    expect(refusal(() => parseJsonObject(text, 'f\n'))).toBe('f\\u{a} must hold a JSON object')
  })
})
