/** Words and bytes worked out by hand from the layouts' descriptions, each once seen to load in the format's own runtime. */
import { describe, expect, it } from 'vitest'
import type { AssembleFacts, CodedLinear, GridName, LinearScheme } from '../../src/contracts.ts'
import { dequantize } from '../../src/dequantize.ts'
import { formats } from '../../src/format/index.ts'
import { hexWords, lookupIn } from './linears.ts'

const none = new Float32Array(0)

const integers = (out: number, inputs: number, bits: CodedLinear['bits'], codes: readonly number[]): CodedLinear => ({
  decode: 'affine',
  out,
  in: inputs,
  bits,
  codes: Uint8Array.from({ length: out * inputs }, (_, i) => codes[i] ?? 0),
  scales: new Float32Array(out).fill(1),
  zeros: new Float32Array(out).fill(2 ** (bits - 1)),
  biases: none,
  levels: none,
  groupOf: new Int32Array(inputs),
})

const schemeOf = (linear: CodedLinear, grid: GridName, more: Partial<LinearScheme> = {}): LinearScheme => ({
  name: 'm',
  role: 'linear',
  out: linear.out,
  in: linear.in,
  dtype: 'F16',
  grid,
  bits: linear.bits,
  symmetric: true,
  group: 'channel',
  groups: 1,
  actOrder: 'none',
  ...more,
})

const dataOf = (format: keyof typeof formats, scheme: LinearScheme, linear: CodedLinear, part: string): Uint8Array =>
  formats[format].pack(scheme, linear).find(({ name }) => name === `m.${part}`)!.data

describe('awq', () => {
  it('holds outputs 0, 2, 4, 6, 1, 3, 5, 7 in the nibbles of a word', () => {
    const linear = integers(8, 1, 4, [8, 3, 15, 0, 7, 9, 12, 1]) // one input, eight outputs
    expect(hexWords(dataOf('awq', schemeOf(linear, 'int'), linear, 'qweight'))).toEqual(['1903C7F8'])
    expect(hexWords(dataOf('awq', schemeOf(linear, 'int'), linear, 'qzeros'))).toEqual(['88888888'])
  })
})

describe('compressed-tensors', () => {
  it.each([
    [[-8, 7, 0, -1, 3, -4, 5, -2], '6D4B78F0'],
    [[0, -5, 7, -8, -1, 1, 4, -7], '1C970F38'],
  ])('packs signed codes %j of a row as 8 more', (signed, word) => {
    const linear = integers(
      1,
      8,
      4,
      signed.map(code => code + 8),
    )
    expect(hexWords(dataOf('compressed-tensors', schemeOf(linear, 'int'), linear, 'weight_packed'))).toEqual([word])
  })

  it('packs 3 bits across words', () => {
    const linear = integers(
      1,
      16,
      3,
      Array.from({ length: 16 }, (_, i) => i % 8),
    )
    const words = hexWords(dataOf('compressed-tensors', schemeOf(linear, 'int'), linear, 'weight_packed'))
    expect(words).toEqual(['88FAC688', '0000FAC6'])
  })

  it('packs zero points along the outputs, and 8-bit weights as signed bytes', () => {
    const linear = { ...integers(8, 4, 4, []), zeros: Float32Array.of(8, 3, 15, 0, 7, 9, 12, 1) }
    const scheme = schemeOf(linear, 'int', { symmetric: false })
    expect(hexWords(dataOf('compressed-tensors', scheme, linear, 'weight_zero_point'))).toEqual(['1C970F38'])
    const eight = integers(1, 4, 8, [0, 127, 128, 255])
    const activations = { grid: 'int8', symmetric: true, granularity: 'token', dynamic: true } as const
    expect([...dataOf('compressed-tensors', schemeOf(eight, 'int', { activations }), eight, 'weight')]).toEqual([
      128, 255, 0, 127,
    ])
  })

  it('holds the even input of NVFP4 in the low nibble, and divides by the global scale', () => {
    const linear: CodedLinear = {
      ...integers(
        1,
        16,
        4,
        Array.from({ length: 16 }, (_, i) => i),
      ),
      decode: 'levels',
      zeros: none,
      levels: Float32Array.of(0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6),
      scales: Float32Array.of(1.5 / 4),
      globalScale: 4,
    }
    const scheme = schemeOf(linear, 'nvfp4', { group: 16 })
    expect(Buffer.from(dataOf('compressed-tensors', scheme, linear, 'weight_packed')).toString('hex')).toBe(
      '1032547698badcfe',
    )
    expect([...dataOf('compressed-tensors', scheme, linear, 'weight_scale')]).toEqual([0x3c]) // 1.5 in E4M3
    const configs = {
      'config.json': JSON.parse(
        formats['compressed-tensors'].assemble({}, factsOf(scheme)).get('config.json') as string,
      ),
    }
    const back = formats['compressed-tensors'].unpack(
      'm',
      lookupIn(formats['compressed-tensors'].pack(scheme, linear)),
      configs,
    )
    expect(dequantize(back)[7]).toBe(6 * 0.375)
  })
})

const factsOf = (scheme: LinearScheme): AssembleFacts => ({
  linears: [scheme],
  kept: [],
  rest: [],
  untied: false,
  method: 'rtn',
  ...{ grid: scheme.grid, bits: scheme.bits, symmetric: true, group: scheme.group, actOrder: 'none' },
  ...{ damp: 0, clip: 'minmax', version: '0.0.0' },
})

describe('bitsandbytes', () => {
  it('holds the even weight in the high nibble', () => {
    const linear: CodedLinear = {
      ...integers(1, 32, 4, [1, 2, 3, 4]),
      decode: 'levels',
      zeros: none,
      levels: new Float32Array(16),
    }
    const scheme = schemeOf(linear, 'nf4', { group: 32 })
    expect([...dataOf('bnb', scheme, linear, 'weight').subarray(0, 3)]).toEqual([0x12, 0x34, 0])
  })

  it('says a float where transformers wants one', () => {
    const linear = integers(1, 4, 8, [])
    const text = formats.bnb.assemble({}, factsOf(schemeOf(linear, 'int'))).get('config.json')
    expect(text).toContain('"llm_int8_threshold": 6.0,')
    expect(JSON.parse(text as string).quantization_config).toMatchObject({
      load_in_8bit: true,
      llm_int8_skip_modules: ['lm_head'],
    })
  })
})
