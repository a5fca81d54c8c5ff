import { describe, expect, it } from 'vitest'
import { withUnicodeWhitespace } from '../../src/text/whitespace.js'

/** Unicode's White_Space property, by the standard's own list (PropList.txt). */
const whiteSpace = new Set(
  [0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x20, 0x85, 0xa0, 0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000].concat(
    Array.from({ length: 11 }, (_, i) => 0x2000 + i),
  ),
)

describe('white space of a pattern', () => {
  it.each([
    ['\\s', true],
    ['[\\s]', true],
    ['[^\\S]', true],
    ['\\S', false],
    ['[\\S]', false],
    ['[^\\s]', false],
  ])('%s is Unicode’s', (source, matches) => {
    const pattern = withUnicodeWhitespace(new RegExp(`^${source}$`, 'u'))
    for (let code = 0; code < 0x11000; code++) {
      if (pattern.test(String.fromCodePoint(code)) !== (whiteSpace.has(code) === matches)) expect(code).toBe(source)
    }
  })

  it('leaves the rest of a pattern and its flags', () => {
    const pattern = withUnicodeWhitespace(/a\\s[\]\\]\[b(?!\w)/gu)
    expect(pattern.source).toBe(/a\\s[\]\\]\[b(?!\w)/gu.source)
    expect(pattern.flags).toBe('gu')
  })
})
