import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Bits, CodedLinear, GridName, LinearScheme, StoredTensor } from '../../src/contracts.ts'
import { dequantize } from '../../src/dequantize.ts'
import type { WeightDtype } from '../../src/dtype/dtype.ts'
import type { ErrorCode } from '../../src/errors.ts'
import { formats } from '../../src/format/index.ts'
import { hexWords, infoMap, lookupIn } from './linears.ts'
import {
  bytesOfShape,
  changedPart,
  configsFor,
  dataOf,
  expectFailure,
  linearFor,
  type SchemeSpec,
  schemeWith,
} from './storage-linears.ts'

const { mlx } = formats

const modes: fc.Arbitrary<Pick<SchemeSpec, 'bits' | 'grid' | 'group' | 'symmetric'>> = fc.oneof(
  fc
    .tuple(fc.constantFrom<Bits>(2, 3, 4, 5, 6, 8), fc.constantFrom(32, 64, 128))
    .map(([bits, group]) => ({ bits, group, grid: 'int' as GridName, symmetric: false })),
  fc.constantFrom(
    { bits: 4 as Bits, group: 32, grid: 'mxfp4' as GridName, symmetric: true },
    { bits: 8 as Bits, group: 32, grid: 'mxfp8' as GridName, symmetric: true },
    { bits: 4 as Bits, group: 16, grid: 'nvfp4' as GridName, symmetric: true },
  ),
)

const specs: fc.Arbitrary<SchemeSpec> = fc
  .record({
    mode: modes,
    out: fc.integer({ min: 1, max: 9 }),
    groups: fc.integer({ min: 1, max: 3 }),
    dtype: fc.constantFrom<WeightDtype>('F16', 'BF16', 'F32'),
  })
  .map(({ mode, out, groups, dtype }) => ({ ...mode, out, in: groups * (mode.group as number), dtype }))

const dtypeNames = { F16: 'float16', BF16: 'bfloat16', F32: 'float32' } as const
const configsOf = (scheme: LinearScheme) => configsFor(mlx, [scheme], { torch_dtype: dtypeNames[scheme.dtype] })

describe('mlx: pack and unpack', () => {
  it('gives back the same linear', () => {
    fc.assert(
      fc.property(specs, fc.integer(), (spec, seed) => {
        const scheme = schemeWith(spec)
        expect(mlx.refuses(scheme)).toBeUndefined()
        const linear = linearFor(mlx, scheme, seed)
        const read = mlx.unpack('m', lookupIn(mlx.pack(scheme, linear)), configsOf(scheme))
        expect(read).toEqual(linear)
        expect(dequantize(read)).toEqual(dequantize(linear))
      }),
      { numRuns: 150 },
    )
  })

  it('stores what layout promises, and detect reads the scheme back', () => {
    fc.assert(
      fc.property(
        specs,
        fc.constantFrom('model.layers.0.mlp.up_proj', 'model.embed_tokens', 'lm_head'),
        (spec, name) => {
          const role = name === 'lm_head' ? 'head' : name.endsWith('tokens') ? 'embedding' : 'linear'
          const scheme = schemeWith({ ...spec, name, role })
          const tensors = mlx.pack(scheme, linearFor(mlx, scheme, 1))
          expect(tensors.map(({ data, ...info }) => info)).toEqual(mlx.layout(scheme))
          for (const { data, bytes } of tensors) expect(data.byteLength).toBe(bytes)
          expect([...mlx.detect(infoMap(tensors), configsOf(scheme))!.values()]).toEqual([scheme])
        },
      ),
      { numRuns: 60 },
    )
  })

  it('takes b + 2 scales / g bits a weight, b + 8 / g of the modes of small floats', () => {
    fc.assert(
      fc.property(specs, spec => {
        const perGroup = spec.grid === 'int' ? (spec.dtype === 'F32' ? 64 : 32) : 8
        const bits = (8 * bytesOfShape(mlx.layout(schemeWith(spec)))) / (spec.out * spec.in)
        expect(bits).toBeCloseTo(spec.bits + perGroup / (spec.group as number), 10)
      }),
    )
  })
})

/** mlx.core.quantize of −16 … 15 in one group of 32, run. */
describe('mlx: the words of mlx itself', () => {
  const ramp = (bits: Bits, scale: number): CodedLinear => ({
    decode: 'biased',
    out: 1,
    in: 32,
    bits,
    codes: Uint8Array.from({ length: 32 }, (_, i) => {
      const [low, rest] = [Math.floor(i / scale), (i % scale) / scale]
      return rest === 0.5 ? low + (low % 2) : Math.round(i / scale) // half to even
    }).map(code => Math.min(code, 2 ** bits - 1)),
    scales: Float32Array.of(scale),
    biases: Float32Array.of(-16),
    zeros: new Float32Array(0),
    levels: new Float32Array(0),
    groupOf: new Int32Array(32),
  })

  it.each<[Bits, number, string]>([
    [4, 2, '43222100 87666544 CBAAA988 FFEEEDCC'],
    [3, 4, '92489200 DB2491B6 FFFFB6DA'],
  ])('%i bits', (bits, scale, words) => {
    const scheme = schemeWith({ out: 1, in: 32, bits, group: 32, dtype: 'BF16' })
    const tensors = mlx.pack(scheme, ramp(bits, scale))
    expect(hexWords(dataOf(tensors, '.weight')).join(' ')).toBe(words)
    expect([...dataOf(tensors, '.biases')]).toEqual([0x80, 0xc1]) // −16 in bfloat16
  })

  it('scales of a byte: E8M0 exponents and E4M3 codes', () => {
    const mx = schemeWith({ out: 1, in: 96, bits: 4, group: 32, grid: 'mxfp4', symmetric: true })
    const scales = Float32Array.of(1, 2 ** -127, 2 ** 127)
    expect([...dataOf(mlx.pack(mx, { ...linearFor(mlx, mx, 1), scales }), '.scales')]).toEqual([127, 0, 254])
    const nv = schemeWith({ out: 1, in: 48, bits: 4, group: 16, grid: 'nvfp4', symmetric: true })
    const fp8 = Float32Array.of(1, 448, 2 ** -9)
    expect([...dataOf(mlx.pack(nv, { ...linearFor(mlx, nv, 1), scales: fp8 }), '.scales')]).toEqual([0x38, 0x7e, 1])
    const between = { ...linearFor(mlx, nv, 1), scales: Float32Array.of(1.01, 1, 1) }
    expect(() => mlx.pack(nv, between)).toThrow(/E4M3 does not hold/)
  })
})

describe('mlx: config', () => {
  const linear = (name: string, bits: Bits, group: number, grid: GridName = 'int') =>
    schemeWith({ name, out: 8, in: 128, bits, group, grid, symmetric: grid !== 'int' })

  it('is one entry for most modules, with those that differ inside it, twice', () => {
    const linears = [linear('a', 6, 128), linear('b', 4, 64), linear('c', 4, 64), linear('d', 4, 32, 'mxfp4')]
    const quantization = {
      ...{ group_size: 64, bits: 4 },
      a: { group_size: 128, bits: 6 },
      d: { group_size: 32, bits: 4, mode: 'mxfp4' },
    }
    const configs = configsFor(mlx, linears, { model_type: 'llama' })
    expect(configs).toEqual({
      'config.json': { model_type: 'llama', quantization, quantization_config: quantization },
    })
    const tensors = linears.flatMap(scheme => mlx.pack(scheme, linearFor(mlx, scheme, 1)))
    const found = [...mlx.detect(infoMap(tensors), configs)!.values()]
    expect(found.map(({ bits, group, grid }) => [bits, group, grid])).toEqual([
      [6, 128, 'int'],
      [4, 64, 'int'],
      [4, 64, 'int'],
      [4, 32, 'mxfp4'],
    ])
  })

  it('an entry without fields has those that its mode has by default, as in mlx', () => {
    const linears = [linear('a', 4, 64), linear('b', 4, 32, 'mxfp4'), linear('c', 8, 64)]
    const tensors = linears.flatMap(scheme => mlx.pack(scheme, linearFor(mlx, scheme, 1)))
    const quantization = { group_size: 32, bits: 4, mode: 'mxfp4', a: { mode: null }, c: { bits: 8 }, router: false }
    const found = mlx.detect(infoMap(tensors), { 'config.json': { quantization } })!
    expect([...found.values()].map(({ bits, group, grid }) => [bits, group, grid])).toEqual([
      [4, 64, 'int'],
      [4, 32, 'mxfp4'],
      [8, 64, 'int'],
    ])
  })

  it.each<[string, object]>([
    ['none', {}],
    ['one of another tool', { quantization: { qformat_weight: 'fp8_e4m3' } }],
    ['one of another method', { quantization_config: { quant_method: 'gptq', bits: 4, group_size: 64 } }],
    ['no object', { quantization: 'int4' }],
  ])('is not found in a config with %s', (_, config) => {
    const scheme = linear('m', 4, 64)
    const tensors = mlx.pack(scheme, linearFor(mlx, scheme, 1))
    expect(mlx.detect(infoMap(tensors), { 'config.json': config })).toBeUndefined()
    expectFailure(() => mlx.unpack('m', lookupIn(tensors), { 'config.json': config }), 'bad-input', /declares no MLX/)
  })

  it.each<[string, object, ErrorCode, RegExp]>([
    ['bits', { bits: 7 }, 'bad-input', /bits is 7; expected 2, 3, 4, 5, 6, 8 of mode affine/],
    ['bits of a mode', { mode: 'mxfp4', bits: 8, group_size: 32 }, 'bad-input', /bits is 8; expected 4 of mode mxfp4/],
    ['group', { group_size: 48 }, 'bad-input', /group_size is 48; expected 32, 64, 128/],
    ['group in words', { group_size: '64' }, 'bad-input', /group_size is "64"/],
    ['mode', { mode: 4 }, 'bad-input', /mode is 4; expected a string/],
    ['unknown mode', { mode: 'int2\n' }, 'unsupported', /MLX mode .* cannot be read; affine, mxfp4/],
    ['module', { m: { bits: 16 } }, 'bad-input', /bits is 16/],
  ])('a malformed %s', (_, change, code, message) => {
    const config = { quantization: { group_size: 64, bits: 4, ...change } }
    const scheme = linear('m', 4, 64)
    const tensors = infoMap(mlx.pack(scheme, linearFor(mlx, scheme, 1)))
    expectFailure(() => mlx.detect(tensors, { 'config.json': config }), code, message)
  })
})

describe('mlx: damaged checkpoints', () => {
  const affine = schemeWith({ out: 2, in: 128, bits: 4, group: 64 })
  const mxfp8 = schemeWith({ out: 2, in: 64, bits: 8, group: 32, grid: 'mxfp8', symmetric: true })
  const nvfp4 = schemeWith({ out: 2, in: 32, bits: 4, group: 16, grid: 'nvfp4', symmetric: true })
  const nan = new Uint8Array(8).fill(0x7e)
  const experts = { shape: [2, 2, 8], bytes: 128 }

  it.each<[string, LinearScheme, string, Partial<StoredTensor> | undefined, ErrorCode, RegExp]>([
    ['no weight', affine, '.weight', undefined, 'bad-input', /m\.weight is missing/],
    ['no biases', affine, '.biases', undefined, 'bad-input', /m\.biases is missing/],
    ['plain weights', affine, '.weight', { dtype: 'F16' }, 'bad-input', /m\.weight is F16, expected U32/],
    ['other words', affine, '.weight', { shape: [2, 8], bytes: 64 }, 'bad-input', /expected \[2, 16\]/],
    ['few bytes', affine, '.weight', { bytes: 4 }, 'bad-input', /m\.weight has 4 bytes/],
    ['an early end', affine, '.weight', { data: new Uint8Array(8) }, 'bad-input', /ends after 8 of 128 bytes/],
    ['a NaN scale', affine, '.scales', { data: nan }, 'bad-input', /m\.scales holds an infinite value or a NaN/],
    ['a NaN bias', affine, '.biases', { data: nan }, 'bad-input', /m\.biases holds/],
    ['biases of another dtype', affine, '.biases', { dtype: 'BF16' }, 'bad-input', /m\.biases is BF16, expected F16/],
    ['few biases', affine, '.biases', { shape: [1, 4] }, 'bad-input', /m\.biases has shape/],
    ['float scales', mxfp8, '.scales', { dtype: 'F16' }, 'bad-input', /m\.scales is F16, expected U8/],
    ['a NaN exponent', mxfp8, '.scales', { data: new Uint8Array(4).fill(255) }, 'bad-input', /m\.scales holds a NaN/],
    ['a NaN weight', mxfp8, '.weight', { data: new Uint8Array(128).fill(127) }, 'bad-input', /m\.weight holds a NaN/],
    ['a NaN code', nvfp4, '.scales', { data: new Uint8Array(4).fill(127) }, 'bad-input', /m\.scales holds a NaN/],
    ['stacked experts', affine, '.weight', experts, 'unsupported', /m\.weight: experts stacked/],
  ])('%s', (_, scheme, suffix, change, code, message) => {
    const tensors = changedPart(mlx.pack(scheme, linearFor(mlx, scheme, 1)), suffix, change)
    expectFailure(() => mlx.unpack('m', lookupIn(tensors), configsOf(scheme)), code, message)
  })

  it('a global scale is named', () => {
    const tensors = mlx.pack(nvfp4, linearFor(mlx, nvfp4, 1))
    const global = { name: 'm.global_scale', dtype: 'F32', shape: [1], bytes: 4, data: new Uint8Array(4) } as const
    const run = () => mlx.detect(infoMap([...tensors, global]), configsOf(nvfp4))
    expectFailure(run, 'unsupported', /m\.global_scale: .*cannot be read/)
  })
})

describe('mlx: refuses', () => {
  const sound: SchemeSpec = { out: 8, in: 192, bits: 4, group: 64 }
  it.each<[string, Partial<LinearScheme>, RegExp | undefined]>([
    ['nothing', {}, undefined],
    ['7 bits', { bits: 7 }, /codes of 2, 3, 4, 5, 6, 8 bits, not of 7/],
    ['nf4', { grid: 'nf4' }, /int, mxfp4, mxfp8, nvfp4, not nf4/],
    ['g_idx', { actOrder: 'g_idx' }, /--act-order static/],
    ['a group of 16', { group: 16, groups: 12 }, /groups of 32, 64, 128, not 16 .*--group 64/],
    ['a group that does not divide', { group: 128 }, /do not divide 192 inputs; --group 32 or 64 would fit/],
    ['no group that divides', { in: 172 }, /do not divide 172 inputs; --unfit keep/],
    ['a long channel', { group: 'channel', groups: 1 }, /not channel of 192 inputs/],
    ['a channel of 128', { in: 128, group: 'channel', groups: 1 }, undefined],
    ['blocks', { group: 'block' }, /not block/],
    ['mxfp4 in groups of 64', { grid: 'mxfp4' }, /groups of 32, not 64/],
    ['mxfp4', { grid: 'mxfp4', group: 32, groups: 6 }, undefined],
  ])('%s', (_, change, message) => {
    const sentence = mlx.refuses({ ...schemeWith(sound), ...change })
    if (message) expect(sentence).toMatch(message)
    else expect(sentence).toBeUndefined()
  })

  it('says which mlx a mode needs', () => {
    expect(mlx.warnings(schemeWith(sound))).toEqual([])
    expect(mlx.warnings(schemeWith({ ...sound, grid: 'nvfp4', group: 16 }))).toEqual([
      'mode nvfp4 needs mlx 0.30 or newer',
    ])
  })
})
