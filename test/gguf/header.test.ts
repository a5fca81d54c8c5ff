import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { readGgufHeader } from '../../src/gguf/header.ts'
import { openGguf } from '../../src/gguf/open-gguf.ts'
import type { GgufArray, GgufSingle } from '../../src/gguf/values.ts'
import { refusal } from '../checkpoint/support.ts'
import { memoryFiles } from '../fuzz/memory-files.ts'
import { ggufFile, info, list, type Parts, pair, text, u32, u64 } from './raw.ts'

const fixture = (name: string): Uint8Array => readFileSync(new URL(`../../fixtures/gguf/${name}`, import.meta.url))

const read = (bytes: Uint8Array) => {
  const { files, largestRead } = memoryFiles({ 'm.gguf': bytes })
  return { ...readGgufHeader(files, files.open('m.gguf', 'read'), 'm.gguf'), largestRead: largestRead() }
}

const open = (bytes: Uint8Array) => openGguf('m.gguf', memoryFiles({ 'm.gguf': bytes }).files)

describe('a file of gguf-py', () => {
  const { metadata, tensors, version, alignment } = read(fixture('values.gguf'))

  it('gives every value of every type', () => {
    const values = Object.fromEntries(
      [...metadata].map(([key, value]) => [key, value.type === 'array' ? value.values() : value.value]),
    )
    expect(values).toEqual({
      'general.architecture': 'llama',
      'test.u8': 255,
      'test.i8': -128,
      'test.u16': 65_535,
      'test.i16': -32_768,
      'test.u32': 4_294_967_295,
      'test.i32': -2_147_483_648,
      'test.u64': 2n ** 64n - 1n,
      'test.i64': -(2n ** 63n),
      'test.f32': Math.fround(0.1),
      'test.f64': 0.1,
      'test.bool': true,
      'test.string': '\ufeff▁é🚀\n',
      'test.strings': ['', 'a', '日本'],
      'test.scores': [0, -1.5, -3],
      'test.types': [1, -2, 3],
      'test.flags': [true, false],
      'test.wide': [2n ** 40n],
    })
    expect((metadata.get('test.u8') as GgufSingle).type).toBe('u8')
    expect((metadata.get('test.wide') as GgufArray).of).toBe('u64')
  })

  it('gives tensors in torch order, padded', () => {
    expect([version, alignment]).toEqual([3, 32])
    expect(tensors.map(({ name, type, shape, bytes }) => [name, type, shape, bytes])).toEqual([
      ['plain.weight', 'F32', [3, 5], 60],
      ['K', 'Q4_K', [2, 512], 576],
      ['legacy', 'Q8_0', [3, 2, 64], 408],
      ['half', 'BF16', [5], 10],
    ])
    expect(tensors.map(({ offset }) => offset - tensors[0].offset)).toEqual([0, 64, 640, 1056])
  })

  it('keeps another alignment', () => {
    const padded = read(fixture('padded.gguf'))
    expect(padded.alignment).toBe(128)
    expect(padded.tensors.map(({ offset }) => offset % 128)).toEqual([0, 0, 0, 0])
  })

  it('reads data by range', () => {
    const bytes = fixture('values.gguf')
    const { tensors: sources, close } = open(bytes)
    const { offset } = tensors[1]
    const { read: readK, file } = sources.get('K')!
    expect(file).toBe('m.gguf')
    expect(Buffer.from(readK()).equals(bytes.subarray(offset, offset + 576))).toBe(true)
    expect(Buffer.from(readK(288, 300)).equals(bytes.subarray(offset + 288, offset + 300))).toBe(true)
    expect(() => readK(0, 577)).toThrow(RangeError)
    close()
  })
})

const name64 = 'n'.repeat(64)
const string = (value: string): Buffer => pair(value, 8, text(value))

/** Sound, or nearly. */
const cases: Record<string, Parts> = {
  'no tensors': {},
  'version 2': { version: 2, keys: [string('a')] },
  'a tensor without padding behind it': { infos: [info('a', [3], 0, 0)], data: 12 },
  'bytes after the last tensor': { infos: [info('a', [3], 0, 0)], data: 96 },
  'a scalar': { infos: [info('a', [], 0, 0)], data: 32 },
  'an empty tensor': { infos: [info('a', [0, 4], 0, 0), info('b', [1], 0, 0)], data: 32 },
  'a name of 63 bytes': { infos: [info(name64.slice(1), [8], 0, 0)], data: 32 },
}

describe('sound files', () => {
  it.each(Object.keys(cases))('%s', name => {
    expect(read(ggufFile(cases[name])).tensors).toHaveLength(cases[name].infos?.length ?? 0)
  })

  it('reverses dimensions', () => {
    const { tensors } = read(ggufFile({ infos: [info('a', [32, 3, 2], 8, 0)], data: 224 }))
    expect(tensors[0]).toMatchObject({ shape: [2, 3, 32], bytes: 204 })
  })
})

const lies: [string, Parts | Uint8Array, RegExp, 'unsupported'?][] = [
  ['an empty file', new Uint8Array(0), /does not begin with "GGUF"; it is no GGUF file/],
  ['half a magic', Buffer.from('GGU'), /does not begin with "GGUF"/],
  ['a pickle', Buffer.from('PK\x03\x04 and more of it'), /is a pickle/],
  ['version 1', { version: 1 }, /is GGUF version 1; versions 2 and 3 are read/, 'unsupported'],
  ['version 4', { version: 4 }, /version 4/, 'unsupported'],
  ['version 0', { version: 0 }, /version 0/],
  ['big-endian', { version: 0x03000000 }, /is big-endian GGUF/, 'unsupported'],
  ['no counts', Buffer.from('GGUF\x03\0\0\0'), /cut off: it ends at byte 8, inside its header/],
  ['too many tensors', { tensorCount: 1_000_001 }, /claims 1000001 tensors; at most 1000000/],
  ['more tensors than bytes', { tensorCount: 900_000 }, /claims 900000 tensors, which do not fit into the \d+ bytes/],
  ['a negative count', { tensorCount: -1 }, /the number of tensors: -1 is negative/],
  ['too many keys', { keyCount: 100_001 }, /claims 100001 keys/],
  ['more keys than bytes', { keyCount: 90_000 }, /claims 90000 keys, which do not fit/],
  ['more keys than given', { keyCount: 2, keys: [string('a')] }, /key 1: its name is empty/],
  ['a key without a name', { keys: [pair('', 0, Buffer.of(1))] }, /key 0: its name is empty/],
  ['a long key', { keys: [pair('k'.repeat(65_536), 0, Buffer.of(1))] }, /key 0: a string of 65536 bytes is longer/],
  ['a key twice', { keys: [string('a'), string('a')] }, /key "a": is given twice/],
  ['a key that is not UTF-8', { keys: [Buffer.concat([text(Buffer.of(0xff)), u32(0), Buffer.of(1)])] }, /not UTF-8/],
  ['a value of no type', { keys: [pair('a', 13, u64(0))] }, /key "a": a value of type 13/],
  ['a negative type', { keys: [pair('a', -1, u64(0))] }, /key "a": a value of type -1/],
  ['a bool of 2', { keys: [pair('a', 7, Buffer.of(2))] }, /key "a": the value is 2, where a bool is 0 or 1/],
  ['a string beyond the file', { keys: [pair('a', 8, text('x', 1000))] }, /key "a": the file is cut off/],
  [
    'a string of 2^63',
    { keys: [pair('a', 8, text('x', 2n ** 63n))] },
    /key "a": the length of a string: \d+ is beyond/,
  ],
  ['a string that is not UTF-8', { keys: [pair('a', 8, text(Buffer.of(0xc3)))] }, /key "a": the value is not UTF-8/],
  [
    'an array beyond the file',
    { keys: [list('a', 4, [u32(1)], 2 ** 40)] },
    /key "a": an array of 1099511627776 values/,
  ],
  ['an array of strings beyond', { keys: [list('a', 8, [text('x')], 3)] }, /key "a": /],
  ['an array of arrays', { keys: [list('a', 9, [u64(0), u64(0)])] }, /key "a": an array of arrays/],
  ['an array of no type', { keys: [list('a', 77, [])] }, /key "a": an array of values of type 77/],
  ['alignment 3', { keys: [pair('general.alignment', 4, u32(3))] }, /general.alignment": 3 is no power of two/],
  ['alignment 0', { keys: [pair('general.alignment', 4, u32(0))] }, /0 is no power of two/],
  ['alignment 2^21', { keys: [pair('general.alignment', 4, u32(2 ** 21))] }, /no power of two from 1 to 1048576/],
  ['alignment as u64', { keys: [pair('general.alignment', 10, u64(32))] }, /is of type u64, where u32 must stand/],
  ['a tensor name of 64 bytes', { infos: [info(name64, [8], 0, 0)], data: 32 }, /tensor 0: a string of 64 bytes/],
  [
    'a name twice',
    { infos: [info('a', [8], 0, 0), info('a', [8], 0, 32)], data: 64 },
    /tensor "a": the name is given twice/,
  ],
  [
    'five dimensions',
    { infos: [info('a', [1, 1, 1, 1, 1], 0, 0)], data: 32 },
    /tensor "a": has 5 dimensions; ggml has at most 4/,
  ],
  ['4 billion dimensions', { infos: [info('a', [1], 0, 0, 2 ** 32 - 1)], data: 32 }, /has 4294967295 dimensions/],
  ['a negative dimension', { infos: [info('a', [-1], 0, 0)], data: 32 }, /tensor "a": dimension 0: -1 is negative/],
  ['an overflow', { infos: [info('a', [2 ** 30, 2 ** 30], 0, 0)], data: 32 }, /tensor "a": its size: .* beyond 2\^53/],
  [
    'a removed type',
    { infos: [info('a', [32], 4, 0)], data: 32 },
    /tensor "a": is of ggml type 4, which is not known/,
    'unsupported',
  ],
  [
    'part of a block',
    { infos: [info('a', [33], 8, 0)], data: 64 },
    /tensor "a": a row of 33 weights is no whole blocks of 32/,
  ],
  ['a scalar of blocks', { infos: [info('a', [], 8, 0)], data: 64 }, /a row of 1 weights/],
  [
    'a hole',
    { infos: [info('a', [8], 0, 0), info('b', [8], 0, 64)], data: 96 },
    /tensor "b": begins at data byte 64, where byte 32/,
  ],
  [
    'an overlap',
    { infos: [info('a', [16], 0, 0), info('b', [8], 0, 32)], data: 96 },
    /tensor "b": begins at data byte 32, where byte 64/,
  ],
  [
    'another order',
    { infos: [info('a', [8], 0, 32), info('b', [8], 0, 0)], data: 96 },
    /tensor "a": begins at data byte 32, where byte 0/,
  ],
  [
    'data cut off',
    { infos: [info('a', [16], 0, 0)], data: 63 },
    /tensor "a": ends at byte \d+, but the file is \d+ bytes long/,
  ],
]

describe('lies are refused in one line', () => {
  it.each(lies)('%s', (_, parts, message, code = 'bad-input' as never) => {
    const bytes = parts instanceof Uint8Array ? parts : ggufFile(parts)
    const line = refusal(() => read(bytes), code)
    expect(line).toMatch(message)
    expect(line).toMatch(/^m\.gguf: /)
  })

  it('at every length that a file may be cut to', () => {
    const bytes = fixture('values.gguf')
    const { offset, bytes: last } = read(bytes).tensors.at(-1)!
    for (let length = 0; length < offset + last; length += 7) refusal(() => read(bytes.subarray(0, length)))
    expect(read(bytes.subarray(0, offset + last)).tensors).toHaveLength(4)
  })

  it('when an element of a string array is not UTF-8, as it is decoded', () => {
    const { metadata } = read(ggufFile({ keys: [list('a', 8, [text('x'), text(Buffer.of(0xff))])] }))
    const array = metadata.get('a') as GgufArray
    expect(refusal(() => array.values())).toBe('m.gguf: key "a": element 1 is not UTF-8')
  })
})

describe('memory', () => {
  it('is not asked for beyond the file', () => {
    expect(read(ggufFile({ keys: [string('a')] })).largestRead).toBeLessThanOrEqual(96)
  })

  it('does not grow with the data', () => {
    const { largestRead } = read(ggufFile({ infos: [info('a', [2 ** 20], 0, 0)], data: 2 ** 22 }))
    expect(largestRead).toBeLessThanOrEqual(65_536)
  })
})
