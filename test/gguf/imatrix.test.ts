import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { readGgufHeader } from '../../src/gguf/header.ts'
import { type Imatrix, imatrixGguf, importancesOf, readImatrix, writeImatrix } from '../../src/gguf/imatrix.ts'
import { type Files, nodeFiles } from '../../src/io/files.ts'
import { refusal } from '../checkpoint/support.ts'
import { memoryFiles } from '../fuzz/memory-files.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'
import '../seed.ts'
import { imatrixFixture as fixture, readBytes as read } from './imatrix-bytes.ts'

const written = (name: string, imatrix: Imatrix): Uint8Array => {
  let bytes = new Uint8Array()
  const writeText: Files['writeText'] = (_, content) => {
    bytes = new Uint8Array(content as Uint8Array)
  }
  writeImatrix(name, imatrix, { ...nodeFiles, writeText })
  return bytes
}

interface Recorded {
  readonly datasets: readonly string[]
  readonly chunks: number
  readonly chunkSize: number
  readonly entries: Readonly<Record<string, { readonly count: number; readonly means: readonly number[] }>>
}

const recorded: Recorded = JSON.parse(Buffer.from(fixture('small.json')).toString())

/** As small.json has it, with the counts of one form. */
const expected = (count: (tokens: number) => number): Imatrix['entries'] =>
  new Map(
    Object.entries(recorded.entries).map(([name, { count: tokens, means }]) => [
      name,
      { values: Float32Array.from(means), count: count(tokens) },
    ]),
  )

const chunksOf = (tokens: number): number => Math.ceil(tokens / 4)

/** Of one weight to another. */
const largestError = (found: Imatrix, wanted: Imatrix): number => {
  expect([...found.entries.keys()]).toEqual([...wanted.entries.keys()])
  const errors = [...wanted.entries].flatMap(([name, { values }]) =>
    [...values].map((value, column) => Math.abs(found.entries.get(name)!.values[column] - value) / (value || 1)),
  )
  return Math.max(...errors)
}

describe('files packed by hand', () => {
  it('GGUF: means over tokens', () => {
    const { datasets, chunks, chunkSize } = recorded
    expect(read(fixture('small.gguf'))).toEqual({
      entries: expected(tokens => tokens),
      datasets,
      chunks,
      chunkSize,
    })
  })

  it('old form: means over chunks, and the last text', () => {
    const found = read(fixture('small.dat'))
    expect(found).toMatchObject({ datasets: ['späte.txt'], chunks: 3, chunkSize: undefined })
    expect([...found.entries.values()].map(({ count }) => count)).toEqual([3, 3, 3, 1])
    // the writer rounds mean × chunks
    expect(largestError(found, { ...found, entries: expected(chunksOf) })).toBeLessThan(2 ** -22)
  })

  it('oldest form: without chunks and text', () => {
    const { entries } = read(fixture('small.dat'))
    expect(read(fixture('old.dat'))).toEqual({ entries, datasets: [], chunks: 0, chunkSize: undefined })
  })
})

describe('files of llama-imatrix', () => {
  const gguf = read(fixture('llama-cpp.gguf'))
  const dat = read(fixture('llama-cpp.dat'))

  it('are read', () => {
    expect(gguf).toMatchObject({ datasets: ['held.txt'], chunks: 6, chunkSize: 64 })
    expect(dat).toMatchObject({ datasets: ['held.txt'], chunks: 6, chunkSize: undefined })
    const weights = ['attn_k', 'attn_output', 'attn_q', 'attn_v', 'ffn_down', 'ffn_gate', 'ffn_up']
    expect([...gguf.entries].map(([name, { values, count }]) => [name, values.length, count])).toEqual(
      weights.map(name => [`blk.0.${name}.weight`, name === 'ffn_down' ? 172 : 64, 384]),
    )
    expect(largestError(dat, gguf)).toBeLessThan(2 ** -22)
    const { values } = gguf.entries.get('blk.0.attn_q.weight')!
    expect(values.reduce((sum, value) => sum + value)).toBeCloseTo(82.4, 2) // llama-imatrix --show-statistics
  })

  it('are laid out as we lay them out', () => {
    const { files } = memoryFiles({ 'x.gguf': fixture('llama-cpp.gguf') })
    const theirs = readGgufHeader(files, files.open('x.gguf', 'read'), 'x.gguf')
    const { header, tensors, bytes } = imatrixGguf('x.gguf', gguf).plan
    expect(bytes).toBe(fixture('llama-cpp.gguf').length)
    expect(Buffer.from(header).equals(fixture('llama-cpp.gguf').subarray(0, header.length))).toBe(true)
    expect(tensors.map(({ name, shape, offset }) => [name, shape, offset])).toEqual(
      theirs.tensors.map(({ name, shape, offset }) => [name, shape, offset]),
    )
    for (const name of ['llama-cpp', 'small'])
      expect(Buffer.from(written('x.dat', read(fixture(`${name}.gguf`)))).equals(fixture(`${name}.dat`))).toBe(true)
  })
})

describe.each(['small.gguf', 'llama-cpp.gguf', 'small.dat', 'old.dat', 'llama-cpp.dat'])('%s', name => {
  const imatrix = read(fixture(name))

  it('comes back as it was, from its own form', () => {
    expect(read(written(name, imatrix))).toEqual(imatrix)
  })

  it('comes back from the other form, but for counts in chunks and other texts', () => {
    const other = read(written(name.endsWith('.dat') ? 'x.gguf' : 'x.dat', imatrix))
    expect(other).toMatchObject({ chunks: imatrix.chunks, chunkSize: undefined })
    expect(other.datasets).toEqual(imatrix.datasets.slice(-1))
    expect(largestError(other, imatrix)).toBeLessThan(2 ** -22)
  })
})

/** @param chunkSize 0: counted in chunks */
const single = (values: Float32Array, count: number, chunkSize = 512): Imatrix => ({
  entries: new Map([['blk.0.attn_q.weight', { values, count }]]),
  datasets: [],
  chunks: 1,
  chunkSize: chunkSize || undefined,
})

describe('writing', () => {
  it('replaces an older file', () => {
    const path = join(temporaryFolder(), 'x.dat')
    for (const name of ['llama-cpp.dat', 'small.dat']) writeImatrix(path, read(fixture(name)), nodeFiles)
    expect(readImatrix(path, nodeFiles)).toEqual(read(fixture('small.dat')))
  })

  it('gives back every mean of float32 sums, over any count', () => {
    const sum = fc.oneof(
      fc.float({ min: 0, max: Math.fround(1e29), noNaN: true }),
      fc.float({ min: 0, max: 1, noNaN: true }),
    )
    const property = fc.property(
      fc.array(sum, { minLength: 1, maxLength: 20 }),
      fc.integer({ min: 1, max: 2 ** 24 }),
      (sums, count) => {
        const { values } = importancesOf(Float32Array.from(sums), count, 'sums')
        for (const [name, chunkSize] of [['p.gguf', 512] as const, ['p.dat', 0] as const])
          expect(read(written(name, single(values, count, chunkSize)))).toEqual(single(values, count, chunkSize))
      },
    )
    fc.assert(property, { numRuns: 300 })
  })

  it('sorts names by their bytes', () => {
    const names = ['output.weight', 'blk.10.a', 'blk.2.a', '\u{10000}', '\uffee', 'a']
    const entries = new Map(names.map(name => [name, { values: Float32Array.of(1), count: 1 }]))
    expect([...read(written('sorted.dat', { ...single(Float32Array.of(1), 1), entries })).entries.keys()]).toEqual([
      ...['a', 'blk.10.a', 'blk.2.a', 'output.weight', '\uffee', '\u{10000}'],
    ])
  })

  it('keeps means without a count', () => {
    const means = single(Float32Array.of(0.25, 3), 0, 0)
    expect(read(written('mean.dat', means))).toEqual(means)
    expect(read(written('mean.gguf', means))).toEqual(single(Float32Array.of(0.25, 3), 1, 0))
    const never = single(Float32Array.of(1, 1), 0)
    expect(read(written('never.gguf', never))).toEqual(never)
  })

  it('rounds counts above 2^24 to float32', () => {
    const large = single(Float32Array.of(1 / 3), 2 ** 24 + 1)
    expect(read(written('large.gguf', large))).toEqual(single(Float32Array.of(1 / 3), 2 ** 24))
    expect(importancesOf(Float32Array.of(1), 2 ** 24 + 1, 'sums').values).toEqual(Float32Array.of(2 ** -24))
  })

  const long = 'n'.repeat(56)
  const named = (name: string): Imatrix => ({
    ...single(Float32Array.of(1), 1),
    entries: new Map([[name, { values: Float32Array.of(1), count: 1 }]]),
  })
  it.each<[string, string, Imatrix, RegExp, ('unsupported' | 'bad-option')?]>([
    ['another ending', 'x.bin', named('a'), /must end in \.gguf, or in \.dat for the old form/, 'bad-option'],
    ['nothing', 'x.dat', { ...named('a'), entries: new Map() }, /without entries/],
    ['a NaN', 'x.gguf', single(Float32Array.of(0, Number.NaN), 1), /^x\.gguf: entry "blk.*" holds NaN in column 1/],
    ['a negative mean', 'x.dat', single(Float32Array.of(-1), 1), /holds -1 in column 0/],
    ['a large mean', 'x.dat', single(Float32Array.of(2e30), 1), /has a mean of .* in column 0; above 1e\+30 ggml/],
    ['a large sum', 'x.gguf', single(Float32Array.of(9e29), 2 ** 40), /holds Infinity in column 0/],
    ['no columns', 'x.gguf', single(new Float32Array(), 1), /has no columns/],
    ['half a count', 'x.gguf', single(Float32Array.of(1), 1.5), /its count: 1\.5 is not an integer/],
    ['a count beyond', 'x.dat', single(Float32Array.of(1), 2 ** 31, 0), /counts to 2147483647/, 'unsupported'],
    ['a long name', 'x.gguf', named(long), /has a name of more than 63 bytes/, 'unsupported'],
    ['a longer name', 'x.dat', named(long + long), /has a name of more than 63 bytes/, 'unsupported'],
    ['experts', 'x.dat', named('blk.0.ffn_up_exps.weight'), /is of several experts/, 'unsupported'],
  ])('refuses %s', (_, name, imatrix, message, code = 'bad-input' as never) => {
    expect(refusal(() => written(name, imatrix), code)).toMatch(message)
  })
})
