import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseHeader } from '../../src/checkpoint/safetensors-header.ts'
import { dtypeBits, dtypes } from '../../src/dtype/dtype.ts'
import { refusal } from './support.ts'

/** Parses JSON text as the header of a file with `data` bytes after it. */
const parse = (json: string | Uint8Array, data = 0) => {
  const bytes = typeof json === 'string' ? Buffer.from(json) : json
  return parseHeader(bytes, 8 + bytes.length + data, 'm.safetensors')
}

const f32 = (begin: number, end: number, shape = `[${(end - begin) / 4}]`) =>
  `{"dtype":"F32","shape":${shape},"data_offsets":[${begin},${end}]}`

const entry = (fields: string) => `{"a":{${fields}}}`

describe('accepted headers', () => {
  it.each(dtypes)('dtype %s', dtype => {
    const bytes = dtypeBits[dtype]
    const { tensors } = parse(entry(`"dtype":"${dtype}","shape":[2,4],"data_offsets":[0,${bytes}]`), bytes)
    expect(tensors).toMatchObject([{ name: 'a', dtype, shape: [2, 4], bytes }])
  })

  it.each<[string, string, number, string[]]>([
    ['nothing', '{}', 0, []],
    ['space behind and between', '{ "a" :\t{ "dtype":"F32", "shape":[ 1 ] ,\n"data_offsets":[0,\r4] } }   ', 4, ['a']],
    ['no dimension: one element', `{"a":${f32(0, 4, '[]')}}`, 4, ['a']],
    ['no element', `{"a":${f32(0, 0, '[0]')},"b":${f32(0, 4)}}`, 4, ['a', 'b']],
    ['an empty name', `{"":${f32(0, 4)}}`, 4, ['']],
    ['entries in any order', `{"b":${f32(4, 8)},"a":${f32(0, 4)}}`, 8, ['a', 'b']],
    [
      'a name that objects have',
      `{"__proto__":${f32(0, 4)},"constructor":${f32(4, 8)}}`,
      8,
      ['__proto__', 'constructor'],
    ],
    ['escapes in a name', String.raw`{"\u0061\ud83d\ude00\"\/":${f32(0, 4)}}`, 4, ['a😀"/']],
    ['UTF-8 in a name', `{"é世😀":${f32(0, 4)}}`, 4, ['é世😀']],
    ['a BOM in a name', `{"\ufeffa":${f32(0, 4)}}`, 4, ['\ufeffa']],
    [
      'other keys',
      entry(`"x":{"y":[1.5e-3,true,null,"\\n",{}]},"shape":[],"data_offsets":[0,1],"dtype":"U8"`),
      1,
      ['a'],
    ],
    ['metadata null', `{"__metadata__":null,"a":${f32(0, 4)}}`, 4, ['a']],
    ['metadata last', `{"a":${f32(0, 4)},"__metadata__":{}}`, 4, ['a']],
  ])('%s', (_, json, data, names) => {
    expect(parse(json, data).tensors.map(({ name }) => name)).toEqual(names)
  })

  it('gives metadata and absolute offsets', () => {
    const json = `{"__metadata__":{"format":"pt","__proto__":"x"},"a":${f32(0, 4)},"b":${f32(4, 16)}}`
    const { metadata, tensors } = parse(json, 16)
    expect([...metadata]).toEqual([
      ['format', 'pt'],
      ['__proto__', 'x'],
    ])
    expect(tensors.map(({ offset, bytes }) => [offset, bytes])).toEqual([
      [8 + json.length, 4],
      [12 + json.length, 12],
    ])
  })
})

const bad = (...bytes: number[]) =>
  Buffer.concat([Buffer.from('{"'), Buffer.from(bytes), Buffer.from(`":${f32(0, 4)}}`)])
const nested = (depth: number) =>
  entry(`"x":${'['.repeat(depth)}${']'.repeat(depth)},"dtype":"U8","shape":[],"data_offsets":[0,1]`)

const refused: readonly (readonly [kind: string, json: string | Uint8Array, data: number, says: RegExp])[] = [
  ['empty header', '', 0, /begin with '{'/],
  ['leading space', ' {}', 0, /header byte 8: .*begin with '{'/],
  ['an array', '[]', 0, /begin with '{'/],
  ['NUL padding', '{}\0\0', 0, /header byte 10: more text/],
  ['a second object', '{}{}', 0, /more text/],
  ['cut off', '{"a":{"dtype":"F32"', 0, /expected '}'/],
  ['cut off in a string', '{"a', 0, /string without end/],
  ['cut off in an escape', '{"a\\', 0, /string without end/],
  ['trailing comma', `{"a":${f32(0, 4)},}`, 4, /expected a string/],
  ['bare name', '{a:1}', 0, /expected a string/],
  ['comment', '{/**/}', 0, /expected a string/],
  ['no colon', `{"a"${f32(0, 4)}}`, 4, /expected ':'/],
  ['name with a bare newline', '{"a\n":1}', 0, /header byte 11: a bare control character/],
  ['unknown escape', String.raw`{"\x41":${f32(0, 4)}}`, 4, /unknown escape/],
  ['short \\u', String.raw`{"\u12":${f32(0, 4)}}`, 4, /unknown escape/],
  ['lone high surrogate', String.raw`{"\ud800":${f32(0, 4)}}`, 4, /lone surrogate/],
  ['lone low surrogate', String.raw`{"\udc00x":${f32(0, 4)}}`, 4, /lone surrogate/],
  ['surrogates reversed', String.raw`{"\ude00\ud83d":${f32(0, 4)}}`, 4, /lone surrogate/],
  ['invalid UTF-8', bad(0xff), 4, /not UTF-8/],
  ['overlong UTF-8', bad(0xc0, 0x80), 4, /not UTF-8/],
  ['a surrogate as UTF-8', bad(0xed, 0xa0, 0x80), 4, /not UTF-8/],
  ['cut UTF-8', bad(0xe4, 0xb8), 4, /not UTF-8/],
  ['entry is a number', '{"a":1}', 0, /tensor "a": expected '{'/],
  ['entry is null', '{"a":null}', 0, /tensor "a": expected '{'/],
  ['entry is an array', '{"a":["F32",[1],[0,4]]}', 4, /expected '{'/],
  ['dtype missing', entry('"shape":[1],"data_offsets":[0,4]'), 4, /dtype is missing/],
  ['shape missing', entry('"dtype":"F32","data_offsets":[0,4]'), 4, /shape is missing/],
  ['data_offsets missing', entry('"dtype":"F32","shape":[1]'), 4, /data_offsets is missing/],
  ['dtype twice', entry('"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]'), 4, /dtype is given twice/],
  ['shape twice', entry('"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]'), 4, /shape is given twice/],
  [
    'data_offsets twice',
    entry('"data_offsets":[0,4],"dtype":"F32","shape":[1],"data_offsets":[0,4]'),
    4,
    /offsets is given twice/,
  ],
  [
    'escaped key twice',
    entry(String.raw`"dtype":"F32","\u0064type":"F32","shape":[1],"data_offsets":[0,4]`),
    4,
    /dtype is given twice/,
  ],
  ['dtype unknown', entry('"dtype":"I4","shape":[1],"data_offsets":[0,4]'), 4, /"I4" is no dtype/],
  ['dtype in lower case', entry('"dtype":"f32","shape":[1],"data_offsets":[0,4]'), 4, /no dtype/],
  ['dtype of Object.prototype', entry('"dtype":"constructor","shape":[1],"data_offsets":[0,4]'), 4, /no dtype/],
  ['dtype is a number', entry('"dtype":4,"shape":[1],"data_offsets":[0,4]'), 4, /expected a string/],
  ['shape 4.0', entry('"dtype":"U8","shape":[4.0],"data_offsets":[0,4]'), 4, /fraction or exponent/],
  ['shape 1e0', entry('"dtype":"U8","shape":[1e0],"data_offsets":[0,1]'), 1, /fraction or exponent/],
  ['shape -1', entry('"dtype":"U8","shape":[-1],"data_offsets":[0,1]'), 1, /negative/],
  ['shape -0', entry('"dtype":"U8","shape":[-0],"data_offsets":[0,0]'), 0, /negative/],
  ['shape 01', entry('"dtype":"U8","shape":[01],"data_offsets":[0,1]'), 1, /leading zero/],
  ['shape "1"', entry('"dtype":"U8","shape":["1"],"data_offsets":[0,1]'), 1, /expected a number/],
  ['shape null', entry('"dtype":"U8","shape":[null],"data_offsets":[0,1]'), 1, /expected a number/],
  ['shape is a number', entry('"dtype":"U8","shape":1,"data_offsets":[0,1]'), 1, /expected '\['/],
  ['shape of 2^53', entry('"dtype":"U8","shape":[9007199254740992,0],"data_offsets":[0,0]'), 0, /beyond 2\^53 - 1/],
  [
    'shape of 2^64 + 4',
    entry('"dtype":"U8","shape":[18446744073709551620],"data_offsets":[0,4]'),
    4,
    /beyond 2\^53 - 1/,
  ],
  [
    'shape whose product wraps at 2^64 to 4',
    entry('"dtype":"U8","shape":[4294967296,4294967296,4],"data_offsets":[0,4]'),
    4,
    /beyond 2\^53 - 1/,
  ],
  [
    'bytes beyond 2^53 by the dtype',
    entry('"dtype":"F64","shape":[9007199254740991],"data_offsets":[0,8]'),
    8,
    /beyond 2\^53 - 1/,
  ],
  [
    'too many dimensions',
    entry(`"dtype":"U8","shape":[${Array(65).fill(1)}],"data_offsets":[0,1]`),
    1,
    /more than 64 dimensions/,
  ],
  ['F4 of an odd count', entry('"dtype":"F4","shape":[3],"data_offsets":[0,2]'), 2, /whole bytes/],
  ['F6 of two', entry('"dtype":"F6_E2M3","shape":[2],"data_offsets":[0,2]'), 2, /whole bytes/],
  ['one offset', entry('"dtype":"F32","shape":[1],"data_offsets":[0]'), 4, /less than two/],
  ['three offsets', entry('"dtype":"F32","shape":[1],"data_offsets":[0,4,8]'), 4, /more than two/],
  ['offsets reversed', entry('"dtype":"F32","shape":[1],"data_offsets":[4,0]'), 4, /negative/],
  ['negative offset', entry('"dtype":"F32","shape":[1],"data_offsets":[-4,0]'), 4, /negative/],
  ['fractional offset', entry('"dtype":"F32","shape":[1],"data_offsets":[0,4.0]'), 4, /fraction/],
  ['offset of 2^63', entry('"dtype":"F32","shape":[1],"data_offsets":[0,9223372036854775808]'), 4, /beyond 2\^53 - 1/],
  [
    'size that the shape denies',
    entry('"dtype":"F32","shape":[2],"data_offsets":[0,4]'),
    4,
    /takes 8 bytes, its data_offsets give 4/,
  ],
  ['hole at the start', `{"a":${f32(4, 8)}}`, 8, /begins at data byte 4, a hole after byte 0/],
  ['hole', `{"a":${f32(0, 4)},"b":${f32(8, 12)}}`, 12, /tensor "b": .*a hole after byte 4/],
  ['overlap', `{"a":${f32(0, 8)},"b":${f32(4, 12)}}`, 12, /tensor "b": .*ends at 8/],
  ['two tensors at one place', `{"a":${f32(0, 4)},"b":${f32(0, 4)}}`, 4, /tensor "b": .*ends at 4/],
  ['file too short', `{"a":${f32(0, 8)}}`, 7, /cut off/],
  ['file too long', `{"a":${f32(0, 8)}}`, 9, /has 1 bytes after the last tensor/],
  ['offsets past the end', `{"a":${f32(0, 4_000_000_000_000)}}`, 4, /cut off/],
  ['a name twice', `{"a":${f32(0, 4)},"a":${f32(0, 4)}}`, 4, /tensor "a": the name is given twice/],
  ['a name twice, once escaped', String.raw`{"a":${f32(0, 4)},"\u0061":${f32(4, 8)}}`, 8, /given twice/],
  ['an empty tensor twice', `{"a":${f32(0, 0)},"a":${f32(0, 0)}}`, 0, /given twice/],
  ['metadata twice', '{"__metadata__":{},"__metadata__":{}}', 0, /__metadata__ is given twice/],
  ['metadata key twice', '{"__metadata__":{"a":"1","a":"2"}}', 0, /"a" is given twice in __metadata__/],
  ['metadata of a number', '{"__metadata__":{"a":1}}', 0, /expected a string/],
  ['metadata of an object', '{"__metadata__":{"a":{}}}', 0, /expected a string/],
  ['metadata of null', '{"__metadata__":{"a":null}}', 0, /expected a string/],
  ['metadata a string', '{"__metadata__":"pt"}', 0, /expected '{'/],
  ['deep nesting', nested(66), 1, /nested deeper than 64/],
  ['very deep nesting', nested(1_000_000), 1, /nested deeper than 64/],
  [
    'skipped value not JSON',
    entry('"x":truth,"dtype":"U8","shape":[],"data_offsets":[0,1]'),
    1,
    /expected|not a JSON value/,
  ],
  ['skipped number not JSON', entry('"x":1.,"dtype":"U8","shape":[],"data_offsets":[0,1]'), 1, /not a JSON value/],
  ['skipped NaN', entry('"x":NaN,"dtype":"U8","shape":[],"data_offsets":[0,1]'), 1, /not a JSON value/],
  ['long name', `{"${'a'.repeat(65_537)}":${f32(0, 4)}}`, 4, /string of 65537 bytes is longer/],
  [
    'control characters in a name',
    String.raw`{"\u001b[2J\n":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`,
    4,
    /tensor "\\u\{1b\}\[2J\\u\{a\}"/,
  ],
]

describe('refused headers', () => {
  it.each(refused)('%s', (_, json, data, says) => {
    const message = refusal(() => parse(json, data))
    expect(message).toMatch(says)
    expect(message).toMatch(/^m\.safetensors: /)
    expect(message.length).toBeLessThan(700)
  })

  it('nesting within the cap is skipped', () => {
    expect(parse(nested(64), 1).tensors).toHaveLength(1)
  })

  it('every escape and every code point that UTF-16 can pair is read as JSON.parse reads it', () => {
    const escaped = (text: string) =>
      [...text].flatMap(c => c.split('').map(unit => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)).join('')
    const points = fc.string({ unit: 'binary', maxLength: 8 })
    const parts = fc.array(
      fc.oneof(
        points.map(escaped),
        points.map(text => JSON.stringify(text).slice(1, -1)),
      ),
    )
    fc.assert(
      fc.property(parts, pieces => {
        const json = `{"__metadata__":{"k":"${pieces.join('')}"}}`
        expect(parse(json).metadata.get('k')).toBe(JSON.parse(json).__metadata__.k)
      }),
      { numRuns: 1000 },
    )
  })

  it('tens of megabytes of escapes, brackets or digits end soon, with bounded memory', () => {
    const many = 5_000_000
    expect(parse(`{"__metadata__":{"k":"${'\\n'.repeat(many)}"}}`).metadata.get('k')).toHaveLength(many)
    expect(refusal(() => parse(entry(`"x":"${'\\n'.repeat(many)}"`)))).toMatch(/dtype is missing/)
    expect(refusal(() => parse(`{"a":{"x":[${'[],'.repeat(many)}`))).toMatch(/not a JSON value/)
    expect(refusal(() => parse(entry(`"shape":[${'9'.repeat(many)}]`)))).toMatch(/beyond 2\^53 - 1/)
  })

  it('the byte in the message is that of the file', () => {
    const json = '{"é":{"dtype":"F33"}}'
    const byte = 8 + Buffer.from(json).indexOf('"F33"')
    expect(refusal(() => parse(json))).toContain(`header byte ${byte}, tensor "é"`)
  })
})
