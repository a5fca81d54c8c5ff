import { describe, expect, it } from 'vitest'
import { readImatrix } from '../../src/gguf/imatrix.ts'
import { refusal } from '../checkpoint/support.ts'
import { memoryFiles } from '../fuzz/memory-files.ts'
import { imatrixFixture as fixture, readBytes as read } from './imatrix-bytes.ts'
import { ggufFile, info, list, type Parts, pair, text, u32 } from './raw.ts'

const f32 = (...values: readonly number[]): Buffer => Buffer.from(Float32Array.from(values).buffer)
const name = 'blk.0.attn_q.weight'

const datEntry = (entry: string | Uint8Array, count: number, values: Uint8Array, claimed?: number): Buffer => {
  const bytes = Buffer.from(entry)
  return Buffer.concat([u32(bytes.length), bytes, u32(count), u32(claimed ?? values.length / 4), values])
}
const dat = (parts: readonly Uint8Array[], count = parts.length, tail: readonly Uint8Array[] = []): Buffer =>
  Buffer.concat([u32(count), ...parts, ...tail])
const sound = datEntry(name, 2, f32(1, 4))

const tail = (dataset: string | Uint8Array, claimed?: number): Buffer[] => {
  const bytes = Buffer.from(dataset)
  return [u32(6), u32(claimed ?? bytes.length), bytes]
}

const datLies: [string, Uint8Array, RegExp, 'unsupported'?][] = [
  ['an empty file', Buffer.alloc(0), /is no importance matrix: it is 0 bytes long/],
  ['zeros', Buffer.alloc(100), /is no importance matrix: it claims 0 entries/],
  ['a negative count', dat([sound], -1), /claims -1 entries/],
  ['more entries than bytes', dat([sound], 100), /claims 100 entries, which do not fit/],
  ['a pickle', Buffer.concat([Buffer.from('PK\x03\x04'), Buffer.alloc(100)]), /is a pickle/],
  ['a link to the file', Buffer.from('version https://git-lfs.github.com/spec/v1 oid'), /is a Git LFS pointer/],
  ['an entry too few', dat([sound, sound.subarray(0, 20)], 2), /the name of entry 1 ends beyond the file/],
  ['a name of no bytes', dat([datEntry('', 1, f32(1, 1))]), /entry "" has no name/],
  ['a name of -1 bytes', dat([Buffer.concat([u32(-1), sound])]), /the length of the name of entry 0: -1 is negative/],
  ['a name of 2^31 - 1 bytes', dat([Buffer.concat([u32(2 ** 31 - 1), sound])]), /entry 0 ends beyond the file/],
  ['a name of 64 bytes', dat([datEntry('n'.repeat(64), 1, f32(1))]), /has a name of more than 63 bytes/],
  ['a name that is not UTF-8', dat([datEntry(Buffer.of(0xff), 1, f32(1))]), /the name of entry 0 is not UTF-8/],
  ['a name with a zero byte', dat([datEntry('a\0b', 1, f32(1))]), /cut at a zero byte/],
  ['a name twice', dat([sound, sound]), /entry "blk\.0\.attn_q\.weight" is given twice/],
  ['experts', dat([datEntry('blk.0.ffn_up_exps.weight', 1, f32(1, 1))]), /of several experts/, 'unsupported'],
  ['a negative number of chunks', dat([datEntry(name, -1, f32(1))]), /its number of chunks: -1 is negative/],
  ['no columns', dat([datEntry(name, 1, f32(), 0), Buffer.alloc(4)], 1), /has no columns/],
  ['a negative number of columns', dat([datEntry(name, 1, f32(1), -1)]), /its number of columns: -1 is negative/],
  ['columns beyond the file', dat([datEntry(name, 1, f32(1), 2)]), /the last of its 2 columns ends beyond the file/],
  ['2^31 - 1 columns', dat([datEntry(name, 1, f32(1), 2 ** 31 - 1)]), /its 2147483647 columns ends beyond the file/],
  ['a NaN', dat([datEntry(name, 1, f32(0, Number.NaN))]), /holds NaN in column 1, which is no sum of squares/],
  ['infinity', dat([datEntry(name, 1, f32(Number.POSITIVE_INFINITY))]), /holds Infinity in column 0/],
  ['a negative sum', dat([datEntry(name, 0, f32(-1e-30))]), /holds -1\.0000.*e-30 in column 0/],
  ['a large mean', dat([datEntry(name, 2, f32(4e30))]), /has a mean of 2\.0.*e\+30 in column 0/],
  ['half a tail', dat([sound], 1, [u32(6), u32(3).subarray(0, 2)]), /the length of the name of the text ends beyond/],
  ['a text beyond the file', dat([sound], 1, tail('a', 2)), /the name of the text ends beyond the file/],
  ['a text of -1 bytes', dat([sound], 1, tail('a', -1)), /the name of the text: -1 is negative/],
  ['a text that is not UTF-8', dat([sound], 1, tail(Buffer.of(0xff))), /the name of the text is not UTF-8/],
  ['a negative number of chunks in all', dat([sound], 1, [u32(-1), u32(0)]), /the number of chunks: -1 is negative/],
  ['bytes left over', dat([sound], 1, [...tail('a'), u32(0)]), /has 4 bytes after the name of the text/],
]

interface Entry {
  readonly sums?: Uint8Array
  readonly counts?: Uint8Array
  readonly shape?: readonly number[]
  readonly countShape?: readonly number[]
  readonly type?: number
  readonly name?: string
}

const keys = [
  list('imatrix.datasets', 8, [text('a.txt')]),
  pair('imatrix.chunk_count', 4, u32(6)),
  pair('imatrix.chunk_size', 4, u32(64)),
]

/** An entry of two columns, of which anything may lie. */
const gguf = (entry: Entry = {}, parts: Parts = {}): Buffer => {
  const { sums = f32(1, 4), counts = f32(2), shape = [2], countShape = [1], type = 0, name: called = name } = entry
  return ggufFile({
    keys,
    infos: [info(`${called}.in_sum2`, shape, type, 0), info(`${called}.counts`, countShape, 0, 32)],
    data: Buffer.concat([sums, Buffer.alloc(32 - sums.length), counts, Buffer.alloc(32 - counts.length)]),
    ...parts,
  })
}

const ggufLies: [string, Uint8Array, RegExp, 'unsupported'?][] = [
  ['a model', ggufFile({ infos: [info(name, [1], 0, 0)], data: 32 }), /no tensor that ends in "\.in_sum2"/],
  ['no counts', gguf({}, { infos: [info(`${name}.in_sum2`, [2], 0, 0)] }), /entry .* has no tensor "\.counts"/],
  ['no sums', gguf({}, { infos: [info(`${name}.counts`, [1], 0, 0)] }), /entry .* has no tensor "\.in_sum2"/],
  ['no name', gguf({ name: '' }), /entry "" has no name/],
  ['experts', gguf({ counts: f32(2, 2), countShape: [1, 2] }), /is of 2 experts/, 'unsupported'],
  ['an expert', gguf({ name: 'blk.0.ffn_up_exps.weight' }), /is of several experts/, 'unsupported'],
  ['counts of none', gguf({ countShape: [0] }), /has no count/],
  ['two rows', gguf({ shape: [1, 2] }), /is \[2,1\], where one row of sums must stand/],
  ['other types', gguf({ type: 1 }), /is of F16 and F32; llama\.cpp reads F32/],
  ['a NaN', gguf({ sums: f32(1, Number.NaN) }), /entry "blk\.0\.attn_q\.weight" holds NaN in column 1/],
  ['a negative sum that is not used', gguf({ sums: f32(-1, 1), counts: f32(0) }), /holds -1 in column 0/],
  ['a large mean', gguf({ sums: f32(4e30, 1) }), /has a mean of 2\.0.*e\+30 in column 0/],
  ['a NaN of tokens', gguf({ counts: f32(Number.NaN) }), /has a count of NaN/],
  ['-1 tokens', gguf({ counts: f32(-1) }), /has a count of -1/],
  ['2^54 tokens', gguf({ counts: f32(2 ** 54) }), /has a count of 18014398509481984/],
  ['no datasets', gguf({}, { keys: keys.slice(1) }), /key "imatrix\.datasets" is missing/],
  ['datasets of numbers', gguf({}, { keys: [list('imatrix.datasets', 4, [u32(1)])] }), /is an array of u32/],
  ['no chunks', gguf({}, { keys: [keys[0], keys[2]] }), /key "imatrix\.chunk_count" is missing \(u32\)/],
  ['no size of chunks', gguf({}, { keys: keys.slice(0, 2) }), /key "imatrix\.chunk_size" is missing \(u32\)/],
]

const lies = [...datLies, ...ggufLies]

describe('lies are refused in one line', () => {
  it.each(lies)('%s', (_, bytes, message, code = 'bad-input' as never) => {
    const line = refusal(() => read(new Uint8Array(bytes)), code)
    expect(line).toMatch(message)
    expect(line).toMatch(/^m: /)
  })

  it.each(['small.dat', 'small.gguf'])('%s, at every length that it may be cut to', file => {
    const bytes = fixture(file)
    const oldest = fixture('old.dat').length // cut there, it is sound
    const end = file === 'small.dat' ? bytes.length : bytes.length - 28 // the last count is padded
    for (let length = 0; length < end; length++)
      if (file !== 'small.dat' || length !== oldest) refusal(() => read(bytes.subarray(0, length)))
    expect(read(bytes.subarray(0, end)).entries.size).toBe(4)
  })

  it('when it is larger than any', () => {
    const { files } = memoryFiles({ m: fixture('small.dat') })
    const huge = { ...files, statOpen: () => ({ bytes: 2 ** 30 + 1 }) }
    expect(refusal(() => readImatrix('m', huge))).toBe('m: is 1073741825 bytes long; at most 1073741824 are read')
  })
})

describe('odd but sound', () => {
  it('one row of sums and of counts, as some writers shape them', () => {
    expect(read(gguf({ shape: [2, 1], countShape: [1, 1] }))).toEqual(read(gguf()))
  })

  it('a weight that was never reached weighs its inputs alike', () => {
    expect(read(gguf({ counts: f32(0) })).entries.get(name)).toEqual({ values: Float32Array.of(1, 1), count: 0 })
  })

  it('sums without chunks are means', () => {
    const { entries } = read(dat([datEntry(name, 0, f32(1, 4))]))
    expect(entries.get(name)).toEqual({ values: Float32Array.of(1, 4), count: 0 })
  })

  it('counts are rounded', () => {
    expect(read(gguf({ counts: f32(2.5) })).entries.get(name)?.count).toBe(3)
  })

  it('other tensors say nothing', () => {
    const infos = [
      info(`${name}.in_sum2`, [2], 0, 0),
      info(`${name}.counts`, [1], 0, 32),
      info(`${name}.in_sum3`, [1], 0, 64),
    ]
    const parts = { infos, data: Buffer.concat([f32(1, 4), Buffer.alloc(24), f32(2), Buffer.alloc(60)]) }
    expect(read(gguf({}, parts))).toEqual(read(gguf()))
  })

  it('memory is not asked for beyond the file', () => {
    const { files, largestRead } = memoryFiles({ m: new Uint8Array(dat([datEntry(name, 1, f32(1), 2 ** 28)])) })
    refusal(() => readImatrix('m', files))
    expect(largestRead()).toBeLessThan(64)
  })
})
