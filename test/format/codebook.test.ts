import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type {
  ActivationScheme,
  AssembleFacts,
  CodedLinear,
  Configs,
  LinearScheme,
  QuantizedLinear,
  StoredTensor,
} from '../../src/contracts.ts'
import { dequantize } from '../../src/dequantize.ts'
import { type ErrorCode, QuantizeError } from '../../src/errors.ts'
import { codebook } from '../../src/format/codebook.ts'
import { schemeRuns } from '../../src/format/codebook-layout.ts'
import { detectFormat } from '../../src/format/index.ts'
import { jsonNear } from '../fuzz/json-tree.ts'
import { anyLinear, linearOf } from './any-linear.ts'
import { hexWords, infoMap, lookupIn } from './linears.ts'

const factsOf = (...linears: readonly LinearScheme[]): AssembleFacts => ({
  ...{ linears, kept: [], rest: [], untied: false, method: 'rtn', grid: 'int', bits: 4, symmetric: true },
  ...{ group: 'channel', actOrder: 'none', damp: 0, clip: 'minmax', version: '9.9.9' },
})

const configsOf = (...linears: readonly LinearScheme[]): Configs => {
  const files = codebook.assemble({ model_type: 'llama' }, factsOf(...linears))
  return { 'config.json': JSON.parse(files.get('config.json') as string) }
}

const hexOf = ({ buffer, byteOffset, byteLength }: ArrayBufferView): string =>
  Buffer.from(buffer, byteOffset, byteLength).toString('hex')

/** Every array as its bytes: NaN, −0 and all. */
const exact = (linear: QuantizedLinear): object =>
  Object.fromEntries(
    Object.entries(linear).map(([key, value]) => [key, ArrayBuffer.isView(value) ? hexOf(value) : value]),
  )

const scheme: LinearScheme = {
  ...{ name: 'm', role: 'linear', out: 4, in: 40, dtype: 'BF16', grid: 'fp4', bits: 4, symmetric: true },
  ...{ group: 8, groups: 5, actOrder: 'none' },
}

describe('pack and unpack', () => {
  it('give back the same linear, of any grid', () => {
    fc.assert(
      fc.property(anyLinear('a.b'), ({ scheme, linear }) => {
        const read = codebook.unpack('a.b', lookupIn(codebook.pack(scheme, linear)), configsOf(scheme))
        expect(exact(read)).toEqual(exact(linear))
        expect(hexOf(dequantize(read))).toBe(hexOf(dequantize(linear)))
      }),
      { numRuns: 200 },
    )
  })

  it('store what layout promises', () => {
    fc.assert(
      fc.property(anyLinear('a.b'), ({ scheme, linear }) => {
        const stored = codebook.pack(scheme, linear)
        expect(stored.map(({ data, ...info }) => info)).toEqual(codebook.layout(scheme))
        for (const { data, bytes } of stored) expect(data.byteLength).toBe(bytes)
      }),
    )
  })

  it('keep biases, and zero points that a symmetric scheme does not expect', () => {
    const int = { ...scheme, grid: 'int' as const }
    const linear = linearOf(int, 5)
    const offsets = linear.zeros.map((_, i) => i - 1.25)
    const biased: CodedLinear = { ...linear, decode: 'biased', zeros: new Float32Array(0), biases: offsets }
    for (const odd of [biased, { ...linear, zeros: offsets }])
      for (const symmetric of [true, false]) {
        const own = { ...int, symmetric }
        expect(codebook.unpack('m', lookupIn(codebook.pack(own, odd)), configsOf(own))).toEqual(odd)
      }
  })

  it('keep groups that are no runs whatever the order says', () => {
    const linear = { ...linearOf(scheme, 5), groupOf: schemeRuns(scheme).map(group => 4 - group) }
    const packed = codebook.pack(scheme, linear)
    expect(packed.at(-1)).toMatchObject({ name: 'm.groups', dtype: 'I32', shape: [40] })
    expect(codebook.unpack('m', lookupIn(packed), configsOf(scheme))).toEqual(linear)
  })

  it('take nested scales as those in effect', () => {
    const linear = linearOf(scheme, 5)
    const nested = { codes: new Uint8Array(20), absmax: new Float32Array(1), offset: 0.5 }
    expect(codebook.unpack('m', lookupIn(codebook.pack(scheme, { ...linear, nested })), configsOf(scheme))).toEqual(
      linear,
    )
  })

  it('do not hide a linear that breaks its scheme', () => {
    const linear = linearOf(scheme, 5)
    const packed = (change: Partial<LinearScheme>) => () => codebook.pack({ ...scheme, ...change }, linear)
    expect(packed({ group: 'tensor', groups: 5 })).toThrow(/row 1 of m has parameters of its own under group tensor/)
    expect(packed({ grid: 'mxfp4' })).toThrow(/E8M0 does not hold a scale of/)
    expect(packed({ grid: 'nvfp4' })).toThrow(/E4M3 under 1 does not hold a scale of/)
  })
})

describe('bits a weight', () => {
  const bitsPerWeight = (change: Partial<LinearScheme>): number => {
    const big = { ...scheme, out: 4096, in: 4096, group: 32, groups: 128, ...change }
    return (8 * codebook.layout(big).reduce((sum, { bytes }) => sum + bytes, 0)) / (big.out * big.in)
  }
  const table = (bits: number) => (32 * 2 ** bits) / 4096 ** 2
  it.each<[string, Partial<LinearScheme>, number]>([
    ['fp4 g32', {}, 5 + table(4)],
    ['nvfp4 g16', { grid: 'nvfp4', group: 16, groups: 256 }, 4.5 + table(4) + 32 / 4096 ** 2],
    ['mxfp4 g32', { grid: 'mxfp4' }, 4.25 + table(4)],
    ['fp8 block', { grid: 'fp8', bits: 8, group: 'block', groups: 32 }, 8 + 32 / 16384 + table(8)],
    ['fp8 tensor', { grid: 'fp8', bits: 8, group: 'tensor', groups: 1 }, 8 + 32 / 4096 ** 2 + table(8)],
    ['int5 symmetric', { grid: 'int', bits: 5 }, 6],
    ['int3 asymmetric', { grid: 'int', bits: 3, symmetric: false }, 5],
    ['int4 g_idx', { grid: 'int', actOrder: 'g_idx' }, 5 + 32 / 4096],
  ])('%s', (_, change, expected) => expect(bitsPerWeight(change)).toBeCloseTo(expected, 10))
})

it('stores codes as docs/codebook-format.md shows', () => {
  const wordsOf = (bits: 3 | 4, codes: number[]): string[] => {
    const small = {
      ...scheme,
      grid: 'int' as const,
      bits,
      out: 1,
      in: codes.length,
      group: 'channel' as const,
      groups: 1,
    }
    return hexWords(codebook.pack(small, { ...linearOf(small, 1), codes: Uint8Array.from(codes) })[0].data)
  }
  expect(wordsOf(4, [1, 2, 3, 4, 5, 6, 7, 8])).toEqual(['87654321'])
  expect(wordsOf(3, [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 6])).toEqual(['88FAC688', '00000001'])
})

it('decodes by the levels that are stored', () => {
  const small: LinearScheme = { ...scheme, grid: 'nf4', out: 1, in: 16, group: 'channel', groups: 1 }
  const levels = Float32Array.from({ length: 16 }, (_, i) => i * i)
  const linear = { ...linearOf(small, 1), codes: Uint8Array.from({ length: 16 }, (_, i) => i), levels }
  const read = codebook.unpack('m', lookupIn(codebook.pack({ ...small }, linear)), configsOf(small))
  expect(dequantize(read)).toEqual(levels.map(level => Math.fround(level * linear.scales[0])))
})

describe('storage', () => {
  it.each([
    ['int', { decode: 'affine', scaleDtype: 'F32', zeroRange: [0, 15] }],
    ['nf4', { decode: 'levels', scaleDtype: 'F32' }],
    ['mxfp4', { decode: 'levels', scaleDtype: 'E8M0' }],
    ['nvfp4', { decode: 'levels', scaleDtype: 'E4M3', second: 'global' }],
  ] as const)('of %s', (grid, storage) => expect(codebook.storage({ ...scheme, grid })).toEqual(storage))

  it('refuses only bits that a table does not have', () => {
    expect(codebook.refuses({ ...scheme, bits: 3 })).toBe('grid fp4 has codes of 4 bits, not of 3; --bits 4 would fit')
    expect(codebook.refuses({ ...scheme, grid: 'int', bits: 3 })).toBeUndefined()
    expect(codebook.warnings(scheme).join()).toMatch(/no runtime/)
  })
})

describe('config', () => {
  const static8: ActivationScheme = {
    ...{ grid: 'int8', symmetric: false, granularity: 'tensor', dynamic: false, scale: 0.5, zero: 3 },
  }
  const several: LinearScheme[] = [
    scheme,
    { ...scheme, name: 'n', out: 7 },
    { ...scheme, name: 'lm_head', role: 'head', grid: 'int', bits: 8, symmetric: false, group: 'channel', groups: 1 },
    { ...scheme, name: '__proto__', activations: static8 },
  ]
  const packed = several.flatMap((each, i) => codebook.pack(each, linearOf(each, i)))

  it('says what each linear is: detect does not guess', () => {
    const configs = configsOf(...several)
    expect(codebook.detect(infoMap(packed), configs)).toEqual(new Map(several.map(each => [each.name, each])))
    expect(detectFormat(infoMap(packed), configs, 'model')?.format.name).toBe('codebook')
  })

  it('names each scheme once, and replaces what the source had', () => {
    const files = codebook.assemble({ a: 1, quantization_config: { quant_method: 'gptq' } }, factsOf(...several))
    const { a, quantization_config: declared } = JSON.parse(files.get('config.json') as string)
    expect(a).toBe(1)
    expect(declared).toMatchObject({ quant_method: 'codebook', version: 1, quantizer: 'quantize-cli:9.9.9' })
    expect(declared.schemes).toHaveLength(3)
    expect(declared.schemes[0].linears).toEqual([
      { name: 'm', out: 4, in: 40 },
      { name: 'n', out: 7, in: 40 },
    ])
  })

  it('stands beside a lone file', () => {
    const files = codebook.assemble(undefined, factsOf(scheme))
    expect([...files.keys()]).toEqual(['quantize_config.json'])
    const configs = { 'quantize_config.json': JSON.parse(files.get('quantize_config.json') as string) }
    expect(codebook.detect(infoMap(packed), configs)?.get('m')).toEqual(scheme)
    expect(detectFormat(infoMap(packed), configs, 'model')?.format.name).toBe('codebook')
  })

  it.each<[string, Configs]>([
    ['no config', {}],
    ['a plain model', { 'config.json': { model_type: 'llama' } }],
    ['another method', { 'config.json': { quantization_config: { quant_method: 'gptq', bits: 4, group_size: 8 } } }],
  ])('is undefined for %s', (_, configs) => expect(codebook.detect(infoMap(packed), configs)).toBeUndefined())
})

const expectFailure = (run: () => unknown, code: ErrorCode, message: RegExp): void => {
  let caught: unknown
  try {
    run()
  } catch (error) {
    caught = error
  }
  expect(caught).toBeInstanceOf(QuantizeError)
  const { code: actual, message: text } = caught as QuantizeError
  expect(text).toMatch(message)
  expect(text).not.toContain('\n')
  expect(actual).toBe(code)
}

describe('a malformed config is an error that names the field', () => {
  const sound = JSON.parse(JSON.stringify(configsOf(scheme)['config.json']))
  const stored = codebook.pack(scheme, linearOf(scheme, 1))
  const withDeclaration = (change: object): Configs => ({
    'config.json': { quantization_config: { ...sound.quantization_config, ...change } },
  })
  const withScheme = (change: object): Configs =>
    withDeclaration({ schemes: [{ ...sound.quantization_config.schemes[0], ...change }] })

  const withLinears = (...linears: object[]): Configs => withScheme({ linears })

  it.each<[Configs, ErrorCode, RegExp]>([
    [
      { 'config.json': { quantization_config: 'codebook' } },
      'bad-input',
      /quantization_config is "codebook"; expected an object/,
    ],
    [withDeclaration({ version: 2 }), 'unsupported', /codebook version 2 cannot be read; version 1 can/],
    [withDeclaration({ version: '1' }), 'bad-input', /version: expected a whole number/],
    [withDeclaration({ schemes: {} }), 'bad-input', /: schemes: /],
    [withDeclaration({ schemes: [7] }), 'bad-input', /schemes\[0\]: /],
    [withDeclaration({ schemes: Array(2).fill(sound.quantization_config.schemes[0]) }), 'bad-input', /name m twice/],
    [withScheme({ bits: 9 }), 'bad-input', /schemes\[0\]\.bits: /],
    [withScheme({ bits: 3 }), 'bad-input', /grid fp4 has codes of 4 bits, not of 3/],
    [withScheme({ grid: 'toString' }), 'bad-input', /schemes\[0\]\.grid: /],
    [withScheme({ group: 0 }), 'bad-input', /schemes\[0\]\.group: /],
    [withScheme({ group: 1e300 }), 'bad-input', /schemes\[0\]\.group: /],
    [withScheme({ more: 1 }), 'bad-input', /schemes\[0\]: .*more/],
    [withScheme({ linears: [{ name: 'm', out: 4 }] }), 'bad-input', /schemes\[0\]\.linears\[0\]\.in: /],
    [withScheme({ linears: [{ name: 'm', out: 4, in: 1.5 }] }), 'bad-input', /schemes\[0\]\.linears\[0\]\.in: /],
    [withScheme({ linears: [{ name: 7, out: 4, in: 40 }] }), 'bad-input', /schemes\[0\]\.linears\[0\]\.name: /],
    [withScheme({ 'a\nb': 1 }), 'bad-input', /schemes\[0\]: .*a\\u\{a\}b/],
    [withLinears({ name: 'm', out: 4, in: 9007199254740991 }), 'bad-input', /m\.codes has shape \[4,5\], expected \[/],
    [withLinears({ name: 'm', out: 9007199254740991, in: 40 }), 'bad-input', /m\.codes has shape \[4,5\], expected \[/],
    [withLinears({ name: 'other', out: 1, in: 1 }), 'bad-input', /other\.codes is missing/],
  ])('case %#', (configs, code, message) => {
    expectFailure(() => codebook.detect(infoMap(stored), configs), code, message)
  })

  it('a module that is not declared', () => {
    expectFailure(
      () => codebook.unpack('x', lookupIn(stored), configsOf(scheme)),
      'bad-input',
      /x: the config declares/,
    )
    expectFailure(() => codebook.unpack('m', lookupIn(stored), {}), 'bad-input', /m: the config declares/)
  })
})

it('a config near a sound one is read, or refused in one line', () => {
  const asymmetric: LinearScheme = { ...scheme, name: 'n', grid: 'int', bits: 3, symmetric: false, group: 'tensor' }
  const all = [scheme, { ...asymmetric, groups: 1 }, { ...scheme, name: 'o', grid: 'nvfp4' as const }]
  const stored = all.flatMap((each, i) => codebook.pack(each, linearOf(each, i)))
  const words = [
    'codebook',
    'version',
    'schemes',
    'linears',
    'group',
    'block',
    'tensor',
    'int',
    'mxfp8',
    'g_idx',
    'name',
    'm',
  ]
  const outcomes = { read: 0, refused: 0 }
  fc.assert(
    fc.property(jsonNear([configsOf(...all)['config.json']], words), bytes => {
      let config: unknown
      try {
        config = JSON.parse(Buffer.from(bytes).toString())
      } catch {
        return
      }
      try {
        const linears = codebook.detect(infoMap(stored), { 'config.json': config })
        for (const name of linears?.keys() ?? []) {
          const values = dequantize(codebook.unpack(name, lookupIn(stored), { 'config.json': config }))
          expect(values.every(Number.isFinite)).toBe(true)
        }
        outcomes.read++
      } catch (error) {
        expect(error).toBeInstanceOf(QuantizeError)
        expect((error as Error).message).not.toMatch(/\n/)
        outcomes.refused++
      }
    }),
    { numRuns: 2000 },
  )
  expect(Math.min(outcomes.read, outcomes.refused)).toBeGreaterThan(100)
})

describe('damaged tensors', () => {
  const asymmetric: LinearScheme = { ...scheme, name: 'i', grid: 'int', bits: 3, symmetric: false, actOrder: 'g_idx' }
  const fp8: LinearScheme = { ...scheme, name: 'f', grid: 'fp8', bits: 8 }
  const nv: LinearScheme = { ...scheme, name: 'n', grid: 'nvfp4' }
  const mx: LinearScheme = { ...scheme, name: 'x', grid: 'mxfp4' }
  const all = [asymmetric, fp8, nv, mx]
  const sound = all.flatMap((each, i) => codebook.pack(each, linearOf(each, i)))
  const configs = configsOf(...all)
  const changed = (name: string, change: Partial<StoredTensor> | undefined): StoredTensor[] =>
    sound.flatMap(tensor => (tensor.name === name ? (change ? [{ ...tensor, ...change }] : []) : [tensor]))
  const filled = (name: string, at: number, value: number): Partial<StoredTensor> => {
    const data = sound.find(tensor => tensor.name === name)!.data.slice()
    if (data.length === 20 && !name.endsWith('codes')) data[at] = value
    else new Float32Array(data.buffer)[at] = value
    return { data }
  }
  const unpackAll = (tensors: readonly StoredTensor[]) => () =>
    all.map(({ name }) => codebook.unpack(name, lookupIn(tensors), configs))

  it('has sound ones to begin with', () => expect(unpackAll(sound)().length).toBe(4))

  it.each(sound.filter(({ name }) => name !== 'x.levels').map(({ name }) => name))('%s may not miss', name => {
    expectFailure(() => codebook.detect(infoMap(changed(name, undefined)), configs), 'bad-input', /is missing/)
    expectFailure(unpackAll(changed(name, undefined)), 'bad-input', new RegExp(`${name} is missing; not a sound`))
  })

  it.each(sound.map(({ name }) => name))('%s of another dtype, shape or size', name => {
    for (const [change, message] of [
      [{ dtype: 'I64' }, /is I64, expected/],
      [{ shape: [1, 2, 3] }, /has shape \[1,2,3\], expected \[/],
      [{ shape: [] }, /has shape \[\], expected \[/],
      [{ bytes: 3 }, /has 3 bytes, its shape .* takes/],
    ] as const) {
      expectFailure(() => codebook.detect(infoMap(changed(name, change)), configs), 'bad-input', message)
      expectFailure(unpackAll(changed(name, change)), 'bad-input', message)
    }
    expectFailure(unpackAll(changed(name, { data: new Uint8Array(2) })), 'bad-input', /ends after 2 of/)
  })

  it.each<[string, Partial<StoredTensor>, RegExp]>([
    ['i.scales', filled('i.scales', 3, Number.NaN), /i\.scales holds an infinite value or a NaN/],
    ['i.zeros', filled('i.zeros', 3, Number.POSITIVE_INFINITY), /i\.zeros holds an infinite value/],
    ['i.groups', { data: new Uint8Array(160).fill(9) }, /i\.groups says group 151587081 for input 0, of 5 groups/],
    ['i.groups', { data: new Uint8Array(160).fill(255) }, /i\.groups says group -1/],
    ['f.levels', filled('f.levels', 3, Number.NEGATIVE_INFINITY), /f\.levels holds an infinite level/],
    ['f.codes', { data: new Uint8Array(160).fill(0x7f) }, /f\.codes holds code 127, which has no level/],
    ['n.scales', filled('n.scales', 0, 0x7f), /n\.scales holds an infinite value or a NaN/],
    ['n.global_scale', filled('n.global_scale', 0, 0), /n\.global_scale is 0, expected a positive number/],
    ['n.global_scale', filled('n.global_scale', 0, -2), /n\.global_scale is -2/],
    ['n.global_scale', filled('n.global_scale', 0, 1e-45), /n\.scales holds an infinite value/],
    ['x.scales', filled('x.scales', 0, 0xff), /x\.scales holds an infinite value or a NaN/],
  ])('%s with %#', (name, change, message) => expectFailure(unpackAll(changed(name, change)), 'bad-input', message))

  it('zero points beside biases', () => {
    const zeros = sound.find(({ name }) => name === 'i.zeros')!
    const both = [...sound, { ...zeros, name: 'i.biases' }]
    expectFailure(unpackAll(both), 'bad-input', /i\.zeros stands beside i\.biases/)
  })
})
