import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Bits, CodedLinear, Format, StoredTensor } from '../../src/contracts.ts'
import { QuantizeError } from '../../src/errors.ts'
import { detectFormat, formatNamed, formatNames, formats } from '../../src/format/index.ts'
import { codedOf, hexWords, infoMap, linearSpecs, lookupIn, randomLinear, schemeFor, schemeOf } from './linears.ts'

const both: [string, Format][] = [
  ['gptq', formats.gptq],
  ['gptq:v2', formats['gptq:v2']],
]

const withZeros = (bits: Bits, zero: number): CodedLinear => {
  const linear = randomLinear({ out: 32, in: 32, bits, groups: 1, order: 'none', lowest: 1, seed: 7 })
  return { ...linear, zeros: linear.zeros.fill(zero) }
}

const dataOf = (tensors: readonly StoredTensor[], suffix: string): Uint8Array =>
  tensors.find(({ name }) => name === `m.${suffix}`)!.data

describe.each(both)('%s: pack and unpack', (name, format) => {
  const lowest = name === 'gptq' ? 1 : 0

  it('gives back the same linear', () => {
    fc.assert(
      fc.property(linearSpecs(lowest), spec => {
        const linear = randomLinear(spec)
        expect(format.unpack('m', lookupIn(format.pack(schemeFor('m', linear), linear)), {})).toEqual(linear)
      }),
      { numRuns: 120 },
    )
  })

  it('stores what layout promises', () => {
    fc.assert(
      fc.property(linearSpecs(lowest), spec => {
        const stored = format.pack(schemeFor('m', randomLinear(spec)), randomLinear(spec))
        expect(stored.map(({ data, ...info }) => info)).toEqual(format.layout(schemeOf('m', spec)))
        for (const { data, bytes } of stored) expect(data.byteLength).toBe(bytes)
      }),
      { numRuns: 60 },
    )
  })

  it('takes b + (b + 16) / g + 32 / out bits a weight', () => {
    fc.assert(
      fc.property(linearSpecs(lowest), spec => {
        const bytes = format.layout(schemeOf('m', spec)).reduce((total, tensor) => total + tensor.bytes, 0)
        const group = spec.in / spec.groups
        const bitsPerWeight = spec.bits + (spec.bits + 16) / group + 32 / spec.out
        expect((8 * bytes) / (spec.out * spec.in)).toBeCloseTo(bitsPerWeight, 10)
      }),
    )
  })

  it('lets storage forbid the zero points it cannot hold', () => {
    for (const bits of [2, 3, 4, 8] as const) {
      const { zeroRange, scaleDtype } = format.storage(
        schemeOf('m', { out: 32, in: 32, bits, groups: 1, order: 'none' }),
      )
      expect(zeroRange).toEqual([lowest, 2 ** bits - 1])
      expect(scaleDtype).toBe('F16')
    }
  })
})

describe('zero points', () => {
  it.each<[string, Bits, string]>([
    ['gptq', 4, '77777777'],
    ['gptq', 2, '55555555'],
    ['gptq', 8, '7F7F7F7F'],
    ['gptq', 3, 'DB6DB6DB B6DB6DB6 6DB6DB6D'],
    ['gptq:v2', 4, '88888888'],
    ['gptq:v2', 2, 'AAAAAAAA'],
    ['gptq:v2', 8, '80808080'],
    ['gptq:v2', 3, '24924924 49249249 92492492'],
  ])('%s, symmetric %i bits: the words of every published checkpoint', (name, bits, hex) => {
    const packed = formatNamed(name).pack(schemeFor('m', withZeros(bits, 1)), withZeros(bits, 2 ** (bits - 1)))
    const expected = Array.from({ length: bits }, (_, i) => hex.split(' ')[i % hex.split(' ').length])
    expect(hexWords(dataOf(packed, 'qzeros'))).toEqual(expected)
  })

  it('v1 reads an all-ones field as 0, and refuses to write it', () => {
    const linear = withZeros(4, 0)
    expect(() => formats.gptq.pack(schemeFor('m', linear), linear)).toThrow(/zero point of 0/)
    const wrapped = formats['gptq:v2'].pack(schemeFor('m', linear), {
      ...linear,
      zeros: linear.zeros.map(() => 15),
    })
    expect(codedOf(formats.gptq.unpack('m', lookupIn(wrapped), {})).zeros).toEqual(linear.zeros)
  })

  it('the config, not the caller, says which version is read', () => {
    const linear = withZeros(4, 8)
    const v2 = { quantization_config: { quant_method: 'gptq', bits: 4, group_size: -1, checkpoint_format: 'gptq_v2' } }
    expect(
      codedOf(
        formats.gptq.unpack('m', lookupIn(formats['gptq:v2'].pack(schemeFor('m', linear), linear)), {
          'config.json': v2,
        }),
      ).zeros,
    ).toEqual(linear.zeros)
  })
})

it('qweight runs along in, qzeros along out, scales are [G, out]', () => {
  const linear: CodedLinear = {
    decode: 'affine',
    out: 8,
    in: 16,
    bits: 4,
    codes: Uint8Array.from({ length: 128 }, (_, i) =>
      Math.floor(i / 16) === 2 ? [8, 3, 15, 0, 7, 9, 12, 1][i % 8] : 0,
    ),
    scales: Float32Array.from({ length: 16 }, (_, i) => i + 1),
    zeros: Float32Array.from({ length: 16 }, (_, i) => (i % 2 === 0 ? i / 2 + 1 : 15)),
    biases: new Float32Array(0),
    levels: new Float32Array(0),
    groupOf: Int32Array.from({ length: 16 }, (_, i) => i % 2),
  }
  const packed = formats.gptq.pack(schemeFor('m', linear), linear)
  const qweight = hexWords(dataOf(packed, 'qweight'))
  expect(qweight[2]).toBe('1C970F38')
  expect(qweight[8 + 2]).toBe('1C970F38')
  expect(qweight.filter(word => word !== '00000000')).toHaveLength(2)
  expect(hexWords(dataOf(packed, 'qzeros'))).toEqual(['76543210', 'EEEEEEEE'])
  const halves = new Uint16Array(dataOf(packed, 'scales').slice().buffer)
  expect([halves[0], halves[1], halves[8], halves[9]]).toEqual([0x3c00, 0x4200, 0x4000, 0x4400]) // 1, 3, 2, 4
  expect([...new Int32Array(dataOf(packed, 'g_idx').slice().buffer)]).toEqual([...linear.groupOf])
})

describe('refuses', () => {
  const scheme = (out: number, inputs: number, bits: number) =>
    schemeOf('m', { out, in: inputs, bits: bits as Bits, groups: 1, order: 'none' })

  it.each<[number, number, number, RegExp | undefined]>([
    [
      172,
      64,
      4,
      /^out = 172 is not a multiple of 8: 4-bit zero points are packed 8 to a 32-bit word; --bits 8 would fit$/,
    ],
    [64, 172, 4, /^in = 172 is not a multiple of 8: 4-bit codes are packed 8 to a 32-bit word; --bits 8 would fit$/],
    [64, 40, 3, /^in = 40 .* 32 to three 32-bit words; --bits 4 or 8 would fit$/],
    [576, 576, 3, undefined],
    [8, 16, 2, /^out = 8 is not a multiple of 16.*--bits 4 or 8/],
    [3, 3, 8, /no bit width fits/],
    [64, 64, 5, /2, 3, 4 or 8 bits, not of 5/],
    [64, 64, 8, undefined],
    [8, 8, 4, undefined],
  ])('out %i, in %i, %i bits', (out, inputs, bits, expected) => {
    const sentence = formats.gptq.refuses(scheme(out, inputs, bits))
    if (expected) expect(sentence).toMatch(expected)
    else expect(sentence).toBeUndefined()
  })
})

describe('warnings', () => {
  const spec = { out: 64, in: 256, bits: 4 as Bits, groups: 2, order: 'static' as const }
  it('has none for what every runtime loads', () => {
    expect(formats.gptq.warnings(schemeOf('m', spec, true))).toEqual([])
    expect(formats.gptq.warnings(schemeOf('m', { ...spec, groups: 1, bits: 8 }, true))).toEqual([])
    expect(formats.gptq.warnings(schemeOf('m', { ...spec, groups: 1, order: 'g_idx' }, true))).toEqual([])
  })
  it.each<[string, string, object, boolean, RegExp]>([
    ['asymmetric v1', 'gptq', {}, false, /asymmetric.*gptq:v2/],
    ['asymmetric v2', 'gptq:v2', {}, false, /asymmetric.*vLLM/],
    ['3 bits', 'gptq', { bits: 3 }, true, /3-bit.*4 and 8/],
    ['g_idx', 'gptq', { order: 'g_idx' }, true, /--act-order static/],
    ['groups of 16', 'gptq', { groups: 16 }, true, /^groups of 16: vLLM 0.33 loads only 32, 64, 128 or channel$/],
    ['groups of 8', 'gptq', { groups: 32 }, true, /GPTQModel only 16/],
    ['odd shapes', 'gptq', { out: 72 }, true, /multiple of 32/],
    ['v2', 'gptq:v2', {}, true, /gptq_v2/],
  ])('%s', (_, name, change, symmetric, expected) => {
    const warnings = formatNamed(name).warnings(schemeOf('m', { ...spec, ...change }, symmetric))
    expect(warnings.some(warning => expected.test(warning))).toBe(true)
    for (const warning of warnings) expect(warning).not.toMatch(/\n|\bm\b/)
  })
})

it('formatNamed and detectFormat know what there is', () => {
  expect(formatNamed('gptq:v2').name).toBe('gptq:v2')
  for (const name of ['ggptq', '', 'toString', '__proto__'])
    expect(() => formatNamed(name)).toThrow(
      new QuantizeError('bad-option', `--format ${name} is not known; known: ${formatNames.join(', ')}`),
    )
  const stored = infoMap(formats['gptq:v2'].pack(schemeFor('m', withZeros(4, 8)), withZeros(4, 8)))
  const config = { quantization_config: { quant_method: 'gptq', bits: 4, group_size: -1, format: 'gptq_v2' } }
  expect(detectFormat(stored, { 'config.json': config }, 'model')?.format.name).toBe('gptq:v2')
  expect(detectFormat(stored, {}, 'model')).toBeUndefined()
})
