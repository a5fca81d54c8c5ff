import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { nodeFiles } from '../../src/io/files.ts'
import { cuttingOf, pieces } from '../../src/text/cut.ts'
import { loadTokenizer, type Tokenizer, type TokenizerLimits, tokenizerLimits } from '../../src/text/tokenizer.ts'

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
  let tokenizer: Tokenizer
  beforeAll(async () => {
    tokenizer = await loadTokenizer({ folder: join(fixtures, family) }, nodeFiles)
  })
  afterAll(() => tokenizer.close())

  it.each(golden.texts.map((text, i) => [JSON.stringify(text), i]))('%s as in Python', async (_, i) => {
    expect([...(await tokenizer.encode(golden.texts[i as number]))]).toEqual(golden.ids[family][i as number])
  })

  it('has a vocabulary size above every id', () => {
    const vocabulary = jsonOf(family).model.vocab as Record<string, number>
    const added = jsonOf(family).added_tokens as { id: number }[]
    expect(tokenizer.vocabularySize).toBe(Math.max(...Object.values(vocabulary), ...added.map(token => token.id)) + 1)
  })

  it('encodes a long text piece by piece to the ids of the whole', async () => {
    for (const seed of [1, 2]) {
      const text = longText(seed, 60_000)
      expect([...pieces(text, cuttingOf(jsonOf(family)))].length).toBeGreaterThan(1)
      expect(same(await tokenizer.encodeLong(text), await tokenizer.encode(text))).toBe(true)
    }
  })

  it('does not let a cut change a text with special tokens', async () => {
    const text = longText(3, 25_000, [...words, '<|end|>', '<|end|> '])
    expect(same(await tokenizer.encodeLong(text), await tokenizer.encode(text))).toBe(true)
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

  it.each<[string, unknown]>([
    ['an object', { toString: 1 }],
    ['null', null],
    ['one part', ['a']],
    ['a part that is a list', ['a', [['b']]]],
    ['a number', 1],
  ])('is refused where a merge is %s', (_, merge) => {
    const json = jsonOf('llama2')
    json.model.merges.push(merge)
    json.added_tokens.push(null, { content: 1 })
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

const badInput = (pattern: RegExp) =>
  expect.objectContaining({ code: 'bad-input', message: expect.stringMatching(pattern) })

/** A folder with this tokenizer.json, loaded. */
const load = (text?: string, config?: string, limits?: TokenizerLimits): Promise<Tokenizer> => {
  const folder = mkdtempSync(join(scratch, 'folder'))
  if (text !== undefined) writeFileSync(join(folder, 'tokenizer.json'), text)
  if (config !== undefined) writeFileSync(join(folder, 'tokenizer_config.json'), config)
  return loadTokenizer({ folder }, nodeFiles, limits)
}

describe('a folder without a usable tokenizer', () => {
  it('names the methods that need no data when there is none', async () => {
    await expect(load()).rejects.toThrow(
      badInput(/has no tokenizer\.json beside the weights; methods that need no data: rtn$/),
    )
  })

  it.each([
    ['text', 'hello', /tokenizer\.json is not JSON: [^\n]*$/],
    ['a list', '[]', /must hold a JSON object$/],
    ['deep JSON', `{"a":${'['.repeat(100)}${']'.repeat(100)}}`, /nested deeper than 64$/],
    ['no model', '{}', /is not a tokenizer that can be read: [^\n]*$/],
    ['an unknown model', '{"model": {"type": "Other"}}', /is not a tokenizer that can be read: [^\n]*$/],
    ['no merges', '{"model": {"type": "BPE", "vocab": {}}}', /is not a tokenizer that can be read: [^\n]*$/],
    [
      'an unknown step',
      '{"model": {"type": "BPE", "vocab": {}, "merges": []}, "normalizer": {"type": "Odd"}}',
      /can be read: [^\n]*Odd/,
    ],
    [
      'an id beyond int32',
      '{"model": {"type": "BPE", "vocab": {"a": 2147483648}, "merges": []}}',
      /id of "a" is 2147483648/,
    ],
    ['an id of text', '{"model": {"type": "BPE", "vocab": {"a": "0"}, "merges": []}}', /id of "a" is "0"/],
  ])('says in one line what is wrong with %s', async (_, text, pattern) => {
    await expect(load(text)).rejects.toThrow(badInput(pattern))
  })

  it('reads tokenizer_config.json too, but not its settings of another runtime', async () => {
    const text = readFileSync(join(fixtures, 'gpt2', 'tokenizer.json'), 'utf8')
    await expect(load(text, 'nonsense')).rejects.toThrow(badInput(/tokenizer_config\.json is not JSON/))
    const tokenizer = await load(text, '{"remove_space": true, "do_lowercase_and_remove_accent": true}')
    expect([...(await tokenizer.encode(golden.texts[5]))]).toEqual(golden.ids.gpt2[5])
    await tokenizer.close()
  })

  it('refuses a text that has no ids', async () => {
    const model = {
      type: 'WordPiece',
      vocab: { a: 0, '[UNK]': 1 },
      unk_token: '[NONE]',
      continuing_subword_prefix: '##',
    }
    const encode = async () => (await load(JSON.stringify({ model }))).encode('zebra')
    await expect(encode()).rejects.toThrow(badInput(/no token id for|can be read/))
  })
})

describe('a tokenizer that does not come to an end', () => {
  const quick = { ...tokenizerLimits, baseMs: 1000 }
  const model = { type: 'WordLevel', vocab: { a: 0 }, unk_token: 'a' }
  const split = (Regex: string) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false })
  const text = 'a'.repeat(60)

  it('is stopped by the time limit, after which it is gone', async () => {
    const tokenizer = await load(JSON.stringify({ model, pre_tokenizer: split('(a|a)*b') }), undefined, quick)
    await expect(tokenizer.encode(text)).rejects.toThrow(badInput(/encoding 60 characters took more than 2 s/))
    await expect(tokenizer.encode('a')).rejects.toThrow(badInput(/took more than/))
    await tokenizer.close()
  })

  it('is stopped by the memory limit', async () => {
    const double = { type: 'Replace', pattern: { String: 'a' }, content: 'aaaaaaaa' }
    const normalizer = { type: 'Sequence', normalizers: Array(6).fill(double) }
    const limits = { ...tokenizerLimits, heapBytes: 64 * 2 ** 20 }
    const json = JSON.stringify({ model, normalizer, pre_tokenizer: split('a') }) // 60 · 8^6 tokens
    const tokenizer = await load(json, undefined, limits)
    await expect(tokenizer.encode(text)).rejects.toThrow(
      expect.objectContaining({ code: 'exhausted', message: expect.stringMatching(/took all memory/) }),
    )
    await tokenizer.close()
  })

  it('answers nothing after close', async () => {
    const tokenizer = await load(JSON.stringify({ model }))
    expect([...(await tokenizer.encode('a'))]).toEqual([0])
    await tokenizer.close()
    await expect(tokenizer.encode('a')).rejects.toThrow('the worker is closed')
  })
})
