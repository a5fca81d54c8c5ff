import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Bits, Group, LinearScheme, StoredTensor } from '../../src/contracts.ts'
import { dequantize } from '../../src/dequantize.ts'
import type { WeightDtype } from '../../src/dtype/dtype.ts'
import type { ErrorCode } from '../../src/errors.ts'
import { formats } from '../../src/format/index.ts'
import { impliedGroup } from '../../src/format/quanto-shapes.ts'
import { infoMap, lookupIn } from './linears.ts'
import {
  bytesOfShape,
  changedPart,
  configsFor,
  dataOf,
  expectFailure,
  linearFor,
  type SchemeSpec,
  schemeWith,
  sourcesOf,
} from './storage-linears.ts'

const { quanto } = formats

const name = 'model.layers.0.mlp.down_proj'
/** The model's config, from which the shape of a packed down_proj is known. */
const configOf = (inputs: number) => ({ model_type: 'llama', hidden_size: 64, intermediate_size: inputs })
const configsOf = (scheme: LinearScheme) => configsFor(quanto, [scheme], configOf(scheme.in))

it.each<[number, Group]>([
  [64, 'channel'],
  [128, 'channel'],
  [129, 'channel'],
  [160, 32],
  [172, 'channel'],
  [192, 96],
  [256, 128],
  [320, 64],
  [384, 128],
  [576, 96],
])('%i inputs: the group that the loader takes is %s', (inputs, group) => {
  expect(impliedGroup(inputs, 4, 'int')).toBe(group)
  expect(impliedGroup(inputs, 2, 'int')).toBe(group)
  expect(impliedGroup(inputs, 8, 'int')).toBe('channel')
  expect(impliedGroup(inputs, 8, 'fp8')).toBe('channel')
})

const kinds: fc.Arbitrary<Pick<SchemeSpec, 'bits' | 'grid' | 'symmetric'>> = fc.constantFrom(
  { bits: 2 as Bits, grid: 'int', symmetric: false },
  { bits: 4 as Bits, grid: 'int', symmetric: false },
  { bits: 8 as Bits, grid: 'int', symmetric: true },
  { bits: 8 as Bits, grid: 'fp8', symmetric: true },
  { bits: 8 as Bits, grid: 'fp8-e5m2', symmetric: true },
)

const specs: fc.Arbitrary<SchemeSpec> = fc
  .record({
    kind: kinds,
    out: fc.integer({ min: 1, max: 9 }),
    in: fc.constantFrom(1, 7, 32, 64, 128, 129, 160, 192, 256, 288),
    dtype: fc.constantFrom<WeightDtype>('F16', 'BF16', 'F32'),
  })
  .map(({ kind, out, in: inputs, dtype }) => ({
    ...{ ...kind, name, in: inputs, dtype },
    out: dtype === 'BF16' && inputs === 256 ? 16 * out : out,
    group: impliedGroup(inputs, kind.bits, kind.grid!),
  }))

describe('quanto: pack and unpack', () => {
  it('gives back the same linear', () => {
    fc.assert(
      fc.property(specs, fc.integer(), (spec, seed) => {
        const scheme = schemeWith(spec)
        expect(quanto.refuses(scheme)).toBeUndefined()
        const linear = linearFor(quanto, scheme, seed)
        const read = quanto.unpack(name, lookupIn(quanto.pack(scheme, linear)), configsOf(scheme))
        expect(read).toEqual(linear)
        expect(dequantize(read)).toEqual(dequantize(linear))
      }),
      { numRuns: 150 },
    )
  })

  it('stores what layout promises, and detect reads the scheme back', () => {
    fc.assert(
      fc.property(specs, spec => {
        const scheme = schemeWith(spec)
        const tensors = quanto.pack(scheme, linearFor(quanto, scheme, 1))
        expect(tensors.map(({ data, ...info }) => info)).toEqual(quanto.layout(scheme))
        for (const { data, bytes } of tensors) expect(data.byteLength).toBe(bytes)
        expect([...quanto.detect(infoMap(tensors), configsOf(scheme))!.values()]).toEqual([scheme])
      }),
      { numRuns: 60 },
    )
  })

  it('takes b + 2 scales / g bits a weight, and two scales of activations', () => {
    fc.assert(
      fc.property(specs, spec => {
        const scheme = schemeWith(spec)
        const scaleBits = spec.dtype === 'F32' ? 32 : 16
        const rows = spec.out * scheme.groups
        const width = spec.in / scheme.groups
        const [codes, perGroup] = spec.bits === 8 ? [8 * rows, 1] : [8 * Math.ceil((rows * spec.bits) / 8), 2]
        const bits = width * codes + perGroup * scaleBits * rows + 2 * scaleBits
        expect(8 * bytesOfShape(quanto.layout(scheme))).toBe(bits)
      }),
    )
  })

  it('stores shift = −bias, codes of 8 bits as signed, and activations unscaled', () => {
    const four = schemeWith({ name, out: 6, in: 8, bits: 4, group: 'channel', dtype: 'F32' })
    const linear = {
      ...linearFor(quanto, four, 1),
      codes: Uint8Array.from({ length: 48 }, (_, i) => 1 + Math.floor(i / 8)),
      biases: Float32Array.of(-1, 2, 0.5, 0, 3, -4),
    }
    const tensors = quanto.pack(four, linear)
    expect(tensors.map(tensor => tensor.name.slice(name.length + 1))).toEqual([
      ...['weight._data._data', 'weight._scale', 'weight._shift', 'input_scale', 'output_scale'],
    ])
    expect([...dataOf(tensors, '._data')]).toEqual([65, 82, 99].flatMap(byte => Array(8).fill(byte)))
    expect([...new Float32Array(dataOf(tensors, '_shift').buffer)]).toEqual([1, -2, -0.5, -0, -3, 4])
    expect([...dataOf(tensors, 'input_scale')]).toEqual([0, 0, 0x80, 0x3f])
    const eight = schemeWith({ name, out: 1, in: 3, bits: 8, group: 'channel', symmetric: true, dtype: 'BF16' })
    const signed = quanto.pack(eight, { ...linearFor(quanto, eight, 1), codes: Uint8Array.of(0, 128, 255) })
    expect([...new Int8Array(dataOf(signed, '._data').buffer)]).toEqual([-128, 0, 127])
    expect([...dataOf(signed, 'output_scale')]).toEqual([0x80, 0x3f])
  })
})

describe('quanto: shapes', () => {
  const packed = (module: string, out: number, inputs: number) => {
    const scheme = schemeWith({ name: module, out, in: inputs, bits: 4, group: impliedGroup(inputs, 4, 'int') })
    return { scheme, tensors: quanto.pack(scheme, linearFor(quanto, scheme, 1)) }
  }
  const config = {
    ...{ hidden_size: 256, intermediate_size: 384, num_attention_heads: 4, head_dim: 48, ffn_dim: 9 },
  }

  it.each([
    ['q_proj', 192, 256],
    ['o_proj', 256, 192],
    ['gate_proj', 384, 256],
    ['down_proj', 256, 384],
    ['lm_head', 500, 256],
  ])('of %s come from config.json', (module, out, inputs) => {
    const { scheme, tensors } = packed(module, out, inputs)
    const configs = configsFor(quanto, [scheme], config)
    expect(quanto.detect(infoMap(tensors), configs)!.get(module)).toMatchObject({ out, in: inputs })
    expect(quanto.unpack(module, lookupIn(tensors), configs)).toMatchObject({ out, in: inputs })
  })

  it('come from the bias where there is one', () => {
    const { scheme, tensors } = packed('anything', 6, 256)
    const bias = { name: 'anything.bias', dtype: 'F16', shape: [6], bytes: 12, data: new Uint8Array(12) } as const
    const configs = configsFor(quanto, [scheme], {})
    expect(quanto.detect(infoMap([...tensors, bias]), configs)!.get('anything')).toMatchObject({ out: 6, in: 256 })
  })

  it('that nothing says are refused by detect; the values have the same order as a matrix of groups', () => {
    const { scheme, tensors } = packed('anything', 6, 256)
    const linear = linearFor(quanto, scheme, 1)
    for (const source of [{}, config, { hidden_size: 'x' }, { hidden_size: -1 }]) {
      const configs = configsFor(quanto, [scheme], source)
      const run = () => quanto.detect(infoMap(tensors), configs)
      expectFailure(run, 'unsupported', /anything: quanto stores no shapes.*12 groups of 128/)
      const read = quanto.unpack('anything', lookupIn(tensors), configs)
      expect(read).toMatchObject({ out: 12, in: 128 })
      expect(dequantize(read)).toEqual(dequantize(linear))
    }
  })

  it('a config that does not fit the tensors is not believed', () => {
    const { scheme, tensors } = packed('q_proj', 6, 256)
    for (const hidden_size of [64, 255, 640]) {
      const configs = configsFor(quanto, [scheme], { hidden_size })
      expectFailure(() => quanto.detect(infoMap(tensors), configs), 'unsupported', /q_proj: quanto stores no shapes/)
    }
  })
})

it('quanto: whole shifts are taken off before scaling', () => {
  const scheme = schemeWith({ name, out: 2, in: 4, bits: 4, group: 'channel' })
  const linear = linearFor(quanto, scheme, 1)
  const shift = { dtype: 'U8' as const, bytes: 2, data: Uint8Array.of(3, 8) }
  const tensors = changedPart(quanto.pack(scheme, linear), '_shift', shift)
  expect(quanto.unpack(name, lookupIn(tensors), configsOf(scheme))).toEqual({
    ...linear,
    decode: 'affine',
    zeros: Float32Array.of(3, 8),
    biases: new Float32Array(0),
  })
})

describe('quanto: damaged checkpoints', () => {
  const four = schemeWith({ name, out: 6, in: 8, bits: 4, group: 'channel' })
  const fp8 = schemeWith({ name, out: 2, in: 4, bits: 8, grid: 'fp8-e5m2', group: 'channel', symmetric: true })
  const nan = new Uint8Array(12).fill(0x7e)

  it.each<[string, LinearScheme, string, Partial<StoredTensor> | undefined, RegExp]>([
    ['no codes', four, '._data', undefined, /down_proj\.weight\._data\._data is missing/],
    ['no shift', four, '_shift', undefined, /_shift is missing/],
    ['no scale', fp8, '_scale', undefined, /weight\._scale is missing/],
    ['other words', four, '._data', { dtype: 'I32' }, /_data is I32, expected U8/],
    ['another shape', four, '._data', { shape: [4, 6] }, /_data has shape \[4,6\], expected \[3, n\]/],
    ['few bytes', four, '._data', { bytes: 23 }, /_data has 23 bytes/],
    ['an early end', four, '._data', { data: new Uint8Array(1) }, /_data ends after 1 of 24 bytes/],
    ['other shifts', four, '_shift', { shape: [1, 6] }, /_shift has shape/],
    ['wide shifts', four, '_shift', { dtype: 'I32' }, /_shift is I32/],
    ['a NaN scale', four, '_scale', { data: nan }, /_scale holds an infinite value or a NaN/],
    ['a NaN shift', four, '_shift', { data: nan }, /_shift holds an infinite value or a NaN/],
    [
      'an infinite weight',
      fp8,
      '._data',
      { data: Uint8Array.of(0, 0, 0x7c, 0, 0, 0, 0, 0) },
      /_data holds an infinite/,
    ],
    ['another FP8', fp8, '._data', { dtype: 'F8_E4M3' }, /_data is F8_E4M3, expected F8_E5M2/],
    ['few scales', fp8, '_scale', { shape: [1, 1] }, /_scale has shape \[1,1\], expected \[2, 1\]/],
  ])('%s', (_, scheme, suffix, change, message) => {
    const tensors = changedPart(quanto.pack(scheme, linearFor(quanto, scheme, 1)), suffix, change)
    expectFailure(() => quanto.unpack(name, lookupIn(tensors), configsOf(scheme)), 'bad-input', message)
  })

  const entry = (weights: unknown, activations: unknown = 'none') => ({ [name]: { weights, activations } })
  it.each<[string, unknown, ErrorCode, RegExp]>([
    ['a list', [], 'bad-input', /^quanto_qmap\.json is \[\]; expected an object/],
    ['no object', { [name]: 'qint4' }, 'bad-input', /the entry of model.* is "qint4"/],
    ['another type', entry('qint3'), 'bad-input', /weights of .* is "qint3"; expected one of qint2/],
    ['no type', entry(4), 'bad-input', /weights of .* is 4/],
    ['activations', entry('qint4', 'qint8'), 'unsupported', /activations of .* are "qint8".*"none" can/],
    ['fnuz', entry('qfloat8_e4m3fnuz'), 'unsupported', /qfloat8_e4m3fnuz, which cannot be read/],
    ['a module without tensors', entry('qint4'), 'bad-input', /down_proj\.weight\._data\._data is missing/],
  ])('a map with %s', (_, map, code, message) => {
    expectFailure(() => quanto.detect(new Map(), { 'quanto_qmap.json': map }), code, message)
  })

  it('a module that the map does not name is not quantized', () => {
    const tensors = quanto.pack(four, linearFor(quanto, four, 1))
    expect(quanto.detect(infoMap(tensors), {})).toBeUndefined()
    expect(quanto.detect(infoMap(tensors), { 'quanto_qmap.json': entry('none') })!.size).toBe(0)
    const run = () => quanto.unpack(name, lookupIn(tensors), { 'quanto_qmap.json': entry('none') })
    expectFailure(run, 'bad-input', /quanto_qmap\.json names no quantized module model/)
  })
})

describe('quanto: refuses', () => {
  const sound: SchemeSpec = { out: 32, in: 256, bits: 4, group: 128 }
  it.each<[string, Partial<LinearScheme>, RegExp | undefined]>([
    ['nothing', {}, undefined],
    ['3 bits', { bits: 3 }, /integers of 2, 4 and 8 bits, not of 3/],
    ['nf4', { grid: 'nf4' }, /int, fp8 and fp8-e5m2, not nf4/],
    ['another group', { group: 64, groups: 4 }, /takes the group from the number of inputs, 128 for 256, not 64/],
    ['a group of 8 bits', { bits: 8, symmetric: true }, /channel for 256, not 128/],
    ['asymmetric 8 bits', { bits: 8, group: 'channel', groups: 1 }, /no zero point; use --sym/],
    ['tensor: a channel', { bits: 8, symmetric: true, group: 'tensor', groups: 1 }, undefined],
    ['g_idx', { actOrder: 'g_idx' }, /--act-order static/],
    ['outputs that the bfloat16 kernel refuses', { out: 24, dtype: 'BF16' }, /out = 24 is not a multiple of 16/],
    ['these outputs in float16', { out: 24 }, undefined],
    ['these outputs of 2 bits', { out: 24, dtype: 'BF16', bits: 2 }, undefined],
  ])('%s', (_, change, message) => {
    const sentence = quanto.refuses({ ...schemeWith(sound), ...change })
    if (message) expect(sentence).toMatch(message)
    else expect(sentence).toBeUndefined()
  })
})

it('quanto: config.json is left as it is, and the map names what is quantized', () => {
  const head = schemeWith({
    ...{ name: 'lm_head', role: 'head', out: 8, in: 64, bits: 8, group: 'channel', symmetric: true },
  })
  const four = schemeWith({ name, out: 8, in: 64, bits: 4, group: 'channel' })
  expect(configsFor(quanto, [four, head], { model_type: 'llama' })).toEqual({
    'config.json': { model_type: 'llama' },
    'quanto_qmap.json': {
      [name]: { weights: 'qint4', activations: 'none' },
      lm_head: { weights: 'qint8', activations: 'none' },
    },
  })
  const tensors = [four, head].flatMap(scheme => quanto.pack(scheme, linearFor(quanto, scheme, 1)))
  const found = quanto.detect(sourcesOf(tensors), configsFor(quanto, [four, head], configOf(64)))!
  expect([...found.values()]).toEqual([four, head])
})
