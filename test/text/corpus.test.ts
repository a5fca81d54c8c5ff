import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { nodeFiles } from '../../src/io/files.ts'
import { readCorpus } from '../../src/text/corpus.ts'

const scratch = mkdtempSync(join(tmpdir(), 'corpus-'))
afterAll(() => rmSync(scratch, { recursive: true }))

function fileOf(name: string, data: string | Uint8Array): string {
  const path = join(scratch, name)
  writeFileSync(path, data)
  return path
}

const failure = (code: string, pattern: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(pattern) })

describe('readCorpus', () => {
  it('takes a .txt file as one document', () => {
    const text = 'First line.\n\nAnother paragraph – naïve.\n'
    expect(readCorpus(fileOf('a.txt', text), nodeFiles)).toEqual({
      name: 'a.txt',
      documents: [text],
      sha256: createHash('sha256').update(text).digest('hex'),
    })
  })

  it('reads every line end of a .txt file as \\n, and none of a .jsonl file', () => {
    const { documents, sha256 } = readCorpus(fileOf('crlf.txt', 'a\r\nb\rc\n\r\n'), nodeFiles)
    expect(documents).toEqual(['a\nb\nc\n\n'])
    expect(sha256).toBe(createHash('sha256').update('a\r\nb\rc\n\r\n').digest('hex'))
    expect(readCorpus(fileOf('crlf.jsonl', '{"text":"a\\r\\nb"}\r\n'), nodeFiles).documents).toEqual(['a\r\nb'])
  })

  it('leaves out a byte order mark', () => {
    expect(readCorpus(fileOf('bom.TXT', '\ufeffword'), nodeFiles).documents).toEqual(['word'])
  })

  it('takes objects with a text and plain strings of a .jsonl file', () => {
    const lines = '{"text": "one\\ntwo", "id": 7}\n\n"three"\r\n  {"text": ""}\n'
    expect(readCorpus(fileOf('b.jsonl', lines), nodeFiles).documents).toEqual(['one\ntwo', 'three', ''])
  })

  it.each([
    ['{"text": "a"}\n{"text": \n', /bad\.jsonl: line 2 is not JSON$/],
    ['"a"\n\n{"content": "b"}', /line 3 is neither a string nor an object with a string field "text"$/],
    ['{"text": 5}', /line 1 is neither/],
    ['{"text": "a"}\n["b"]', /line 2 is neither/],
    ['null', /line 1 is neither/],
    ['', /bad\.jsonl holds no text$/],
    ['{"text": ""}\n\n', /holds no text$/],
  ])('names the line of %j', (lines, pattern) => {
    const path = fileOf('bad.jsonl', lines)
    expect(() => readCorpus(path, nodeFiles)).toThrow(failure('bad-input', pattern))
  })

  it('refuses what is not UTF-8, missing, empty or a folder', () => {
    const read = (path: string) => () => readCorpus(path, nodeFiles)
    expect(read(fileOf('latin.txt', Uint8Array.of(0x61, 0xe9, 0x61)))).toThrow(
      failure('bad-input', /latin\.txt is not UTF-8/),
    )
    expect(read(join(scratch, 'none.txt'))).toThrow(failure('bad-input', /none\.txt: no such text file$/))
    expect(read(fileOf('empty.txt', ''))).toThrow(failure('bad-input', /empty\.txt holds no text$/))
    mkdirSync(join(scratch, 'folder.txt'))
    expect(read(join(scratch, 'folder.txt'))).toThrow(failure('bad-input', /no such text file$/))
  })

  it('names what can be read for another extension, before it looks for the file', () => {
    const read = () => readCorpus('/nowhere/data.parquet', nodeFiles)
    expect(read).toThrow(
      failure('bad-option', /data\.parquet: text is read from a \.txt file, a \.jsonl file, or bundled$/),
    )
  })
})

describe('the bundled text', () => {
  const { name, documents } = readCorpus('bundled', nodeFiles)

  it('is large, and of many documents of a moderate size', () => {
    expect(name).toBe('bundled')
    expect(documents.reduce((sum, text) => sum + Buffer.byteLength(text), 0)).toBeGreaterThan(400_000)
    expect(documents.length).toBeGreaterThan(300)
    for (const text of documents) {
      expect(Buffer.byteLength(text)).toBeLessThanOrEqual(8000)
      expect(text.length).toBeGreaterThan(100)
    }
  })

  it('repeats no document', () => {
    expect(new Set(documents).size).toBe(documents.length)
  })

  it('has no control, replacement, surrogate or private characters', () => {
    for (const text of documents) expect(text).not.toMatch(/[\p{Cs}\p{Co}\p{Cn}\ufffd\ufeff\r]|[^\P{Cc}\n\t]/u)
  })

  it.each([
    ['German', /\b(nicht|wurde)\b/],
    ['French', /\b(dans|avec|une)\b/],
    ['Russian', /\p{Script=Cyrillic}{4}/u],
    ['Chinese', /\p{Script=Han}{8}/u],
    ['Japanese', /\p{Script=Hiragana}{3}/u],
    ['Arabic', /\p{Script=Arabic}{3}/u],
    ['code', /\bfunction \w+\(/],
    ['JSON', /^\s*"\w+": /m],
    ['tables', /^\| ?-{2,}/m],
  ])('holds some %s', (_, pattern) => {
    expect(documents.some(text => pattern.test(text))).toBe(true)
  })
})
