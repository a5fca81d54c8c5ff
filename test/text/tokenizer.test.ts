import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, describe, expect, it } from 'vitest'
import { nodeFiles } from '../../src/io/files.ts'
import { cuttingOf, pieces } from '../../src/text/cut.ts'
import { loadTokenizer } from '../../src/text/tokenizer.ts'

const fixtures = new URL('../../fixtures/tokenizer/', import.meta.url).pathname
const golden: { texts: string[]; ids: Record<string, number[][]> } = JSON.parse(
  readFileSync(join(fixtures, 'golden.json'), 'utf8'),
)
const families = readdirSync(fixtures, { withFileTypes: true }).flatMap(entry =>
  entry.isDirectory() ? entry.name : [],
)
const jsonOf = (family: string) => JSON.parse(readFileSync(join(fixtures, family, 'tokenizer.json'), 'utf8'))

const scratch = mkdtempSync(join(tmpdir(), 'tokenizer-'))
afterAll(() => rmSync(scratch, { recursive: true }))

const words = [
  'the',
  ' light',
  " doesn't",
  '\n',
  '\n\n',
  ' ',
  '  ',
  'Brücke',
  ' 1847',
  '42',
  '.',
  ',\n',
  '\t',
  '東京',
  '\u0085',
  '\ufeff',
  ' \n',
  '▁',
  'x',
]
const longText = (seed: number, count: number, allowed = words) =>
  Array.from({ length: count }, (_, i) => allowed[(Math.imul(seed + i, 0x9e3779b1) >>> 7) % allowed.length]).join('')

/** Vitest's own comparison takes seconds on so many numbers. */
const same = (a: Int32Array, b: Int32Array) => Buffer.compare(Buffer.from(a.buffer), Buffer.from(b.buffer)) === 0

describe.each(families)('tokenizer %s', family => {
  const tokenizer = loadTokenizer(join(fixtures, family), nodeFiles)

  it.each(golden.texts.map((text, i) => [JSON.stringify(text), i]))('%s as in Python', (_, i) => {
    expect([...tokenizer.encode(golden.texts[i as number])]).toEqual(golden.ids[family][i as number])
  })

  it('has a vocabulary size above every id', () => {
    const vocabulary = jsonOf(family).model.vocab as Record<string, number>
    const added = jsonOf(family).added_tokens as { id: number }[]
    expect(tokenizer.vocabularySize).toBe(Math.max(...Object.values(vocabulary), ...added.map(token => token.id)) + 1)
  })

  it('encodes a long text piece by piece to the ids of the whole', () => {
    for (const seed of [1, 2]) {
      const text = longText(seed, 60_000)
      expect([...pieces(text, cuttingOf(jsonOf(family)))].length).toBeGreaterThan(1)
      expect(same(tokenizer.encodeLong(text), tokenizer.encode(text))).toBe(true)
    }
  })

  it('does not let a cut change a text with special tokens', () => {
    const text = longText(3, 25_000, [...words, '<|end|>', '<|end|> '])
    expect(same(tokenizer.encodeLong(text), tokenizer.encode(text))).toBe(true)
  })
})

describe('cutting', () => {
  it.each(families)('loses no character (%s)', family => {
    const cutting = cuttingOf(jsonOf(family))
    const dropped = cutting?.at === 'space' ? ' ' : ''
    fc.assert(
      fc.property(fc.nat(), fc.integer({ min: 0, max: 30_000 }), (seed, count) => {
        const text = longText(seed, count)
        expect([...pieces(text, cutting)].join(dropped)).toBe(text)
      }),
      { numRuns: 20 },
    )
  })

  it('is refused where a merge could cross it', () => {
    const json = jsonOf('llama2')
    json.model.merges.push(['e▁', '▁t'])
    expect(cuttingOf(jsonOf('llama2'))?.at).toBe('space')
    expect(cuttingOf(json)).toBeUndefined()
  })

  it.each<[string, (json: Record<string, unknown>) => void]>([
    ['an unknown pattern', json => Object.assign(json, { pre_tokenizer: { type: 'Split', pattern: { Regex: '.' } } })],
    ['a prefix space', json => Object.assign(json.pre_tokenizer as object, { add_prefix_space: true })],
    ['no pattern', json => Object.assign(json.pre_tokenizer as object, { use_regex: false })],
    ['a normalizer', json => Object.assign(json, { normalizer: { type: 'Lowercase' } })],
  ])('is refused for %s', (_, change) => {
    const json = jsonOf('gpt2')
    change(json)
    expect(cuttingOf(json)).toBeUndefined()
  })
})

describe('a folder without a usable tokenizer', () => {
  const load = (name: string, text?: string, config?: string) => {
    const folder = mkdtempSync(join(scratch, name))
    if (text !== undefined) writeFileSync(join(folder, 'tokenizer.json'), text)
    if (config !== undefined) writeFileSync(join(folder, 'tokenizer_config.json'), config)
    return () => loadTokenizer(folder, nodeFiles)
  }
  const badInput = (pattern: RegExp) =>
    expect.objectContaining({ code: 'bad-input', message: expect.stringMatching(pattern) })

  it('names the methods that need no data when there is none', () => {
    expect(load('none')).toThrow(badInput(/has no tokenizer\.json beside the weights; methods that need no data: rtn$/))
  })

  it.each([
    ['text', 'hello', /tokenizer\.json is not JSON: [^\n]*$/],
    ['a list', '[]', /must hold a JSON object$/],
    ['no model', '{}', /is not a tokenizer that can be read: [^\n]*$/],
    ['an unknown model', '{"model": {"type": "Other"}}', /is not a tokenizer that can be read: [^\n]*$/],
    ['no merges', '{"model": {"type": "BPE", "vocab": {}}}', /is not a tokenizer that can be read: [^\n]*$/],
    [
      'an unknown step',
      '{"model": {"type": "BPE", "vocab": {}, "merges": []}, "normalizer": {"type": "Odd"}}',
      /can be read: [^\n]*Odd/,
    ],
  ])('says in one line what is wrong with %s', (_, text, pattern) => {
    expect(load('bad', text)).toThrow(badInput(pattern))
  })

  it('reads tokenizer_config.json too, but not its settings of another runtime', () => {
    const text = readFileSync(join(fixtures, 'gpt2', 'tokenizer.json'), 'utf8')
    expect(load('config', text, 'nonsense')).toThrow(badInput(/tokenizer_config\.json is not JSON/))
    const tokenizer = load('config', text, '{"remove_space": true, "do_lowercase_and_remove_accent": true}')()
    expect([...tokenizer.encode(golden.texts[5])]).toEqual(golden.ids.gpt2[5])
  })

  it('refuses a text that has no ids', () => {
    const json = {
      model: { type: 'WordPiece', vocab: { a: 0, '[UNK]': 1 }, unk_token: '[NONE]', continuing_subword_prefix: '##' },
    }
    expect(() => load('ids', JSON.stringify(json))().encode('zebra')).toThrow(badInput(/no token id for|can be read/))
  })
})
