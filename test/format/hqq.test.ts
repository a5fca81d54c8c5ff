import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Bits, Group, LinearScheme, StoredTensor } from '../../src/contracts.ts'
import { dequantize } from '../../src/dequantize.ts'
import type { WeightDtype } from '../../src/dtype/dtype.ts'
import type { ErrorCode } from '../../src/errors.ts'
import { formats } from '../../src/format/index.ts'
import { lookupIn } from './linears.ts'
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

const { hqq } = formats

/** Shapes whose groups fill the words of their bits. */
const specs: fc.Arbitrary<SchemeSpec> = fc
  .record({
    bits: fc.constantFrom<Bits>(1, 2, 3, 4, 8),
    eighths: fc.integer({ min: 1, max: 5 }),
    group: fc.constantFrom<Group>(8, 24, 64, 'channel'),
    groups: fc.integer({ min: 1, max: 3 }),
    odd: fc.integer({ min: 1, max: 13 }),
    dtype: fc.constantFrom<WeightDtype>('F16', 'BF16', 'F32'),
  })
  .map(({ bits, eighths, group, groups, odd, dtype }) => ({
    bits,
    out: bits === 3 || bits === 8 ? odd : eighths * 8,
    in: typeof group === 'number' ? group * groups : odd,
    group,
    dtype,
  }))

const stored = (scheme: LinearScheme, seed = 1) => hqq.pack(scheme, linearFor(hqq, scheme, seed))

describe('hqq: pack and unpack', () => {
  it('gives back the same linear', () => {
    fc.assert(
      fc.property(specs, fc.integer(), (spec, seed) => {
        const scheme = schemeWith(spec)
        expect(hqq.refuses(scheme)).toBeUndefined()
        const linear = linearFor(hqq, scheme, seed)
        const read = hqq.unpack('m', lookupIn(hqq.pack(scheme, linear)), {})
        expect(read).toEqual(linear)
        expect(dequantize(read)).toEqual(dequantize(linear))
      }),
      { numRuns: 150 },
    )
  })

  it('stores what layout promises, and detect reads the scheme back', () => {
    fc.assert(
      fc.property(specs, spec => {
        const scheme = schemeWith({ ...spec, name: 'model.layers.0.mlp.up_proj' })
        const tensors = stored(scheme)
        expect(tensors.map(({ data, ...info }) => info)).toEqual(hqq.layout(scheme))
        for (const { data, bytes } of tensors) expect(data.byteLength).toBe(bytes)
        const found = hqq.detect(sourcesOf(tensors), configsFor(hqq, [scheme]))!.get(scheme.name)!
        // a group of a whole row is a channel
        expect(found).toEqual(scheme.group === scheme.in ? { ...scheme, group: 'channel' } : scheme)
      }),
      { numRuns: 60 },
    )
  })

  it('takes b + 32 / g bits a weight beside a state of less than 100 bytes', () => {
    fc.assert(
      fc.property(specs, spec => {
        const scheme = schemeWith(spec)
        const tensors = hqq.layout(scheme)
        const group = typeof spec.group === 'number' ? spec.group : spec.in
        const groups = (spec.out * spec.in) / group
        const codeBits = spec.bits === 3 ? (32 * Math.ceil(groups / 10)) / groups : spec.bits
        expect((8 * bytesOfShape(tensors.slice(0, 3))) / (spec.out * spec.in)).toBeCloseTo(codeBits + 32 / group, 10)
        expect(bytesOfShape(tensors.slice(3))).toBeLessThan(100)
      }),
    )
  })

  it('packs rows of groups, the first half in the high bits', () => {
    const scheme = schemeWith({ out: 4, in: 8, bits: 4, group: 8 })
    const linear = linearFor(hqq, scheme, 1)
    const codes = Uint8Array.from({ length: 32 }, (_, i) => [1, 3, 5, 7][Math.floor(i / 8)])
    const words = dataOf(hqq.pack(scheme, { ...linear, codes }), '.W_q')
    expect([...words]).toEqual([...Array(8).fill(0x15), ...Array(8).fill(0x37)])
  })

  it('keeps every field of the state that the library writes', () => {
    const scheme = schemeWith({ out: 8, in: 128, bits: 3, group: 64, dtype: 'BF16' })
    const tensors = stored(scheme)
    const shown = Object.fromEntries(
      tensors.slice(3).map(({ name, dtype, shape, data }) => {
        const text = name.endsWith('packing') || name.endsWith('dtype')
        return [name.slice(2), [dtype, shape, text ? new TextDecoder().decode(data) : [...data]]]
      }),
    )
    const one = ['U8', [], [1]]
    const zero = ['U8', [], [0]]
    expect(shown).toEqual({
      nbits: ['I32', [], [3, 0, 0, 0]],
      group_size: ['I32', [], [64, 0, 0, 0]],
      shape: ['I64', [2], [8, 0, 0, 0, 0, 0, 0, 0, 128, 0, 0, 0, 0, 0, 0, 0]],
      axis: ['I32', [], [1, 0, 0, 0]],
      packing: ['U8', [7], '3bit_32'],
      unpack_view_dtype: ['U8', [11], 'torch.int32'],
      compute_dtype: ['U8', [14], 'torch.bfloat16'],
      ...{ view_as_float: zero, quant_scale: zero, quant_zero: zero, offload_meta: zero, optimize: zero },
      ...{ encoded_state_dict: one, stores_quant_config: one, channel_wise: one, round_zero: one },
    })
    expect(tensors[1].dtype).toBe('BF16')
  })
})

/** A state by hand: 4 bits unless said otherwise. */
const int32 = (value: number) => new Uint8Array(Int32Array.of(value).buffer)
const withFields = (tensors: StoredTensor[], fields: Readonly<Record<string, number>>) =>
  Object.entries(fields).reduce((all, [key, value]) => changedPart(all, `.${key}`, { data: int32(value) }), tensors)

describe('hqq: what other writers make', () => {
  const scheme = schemeWith({ out: 6, in: 8, bits: 4, group: 8 })
  const linear = linearFor(hqq, scheme, 5)
  const tensors = [...hqq.pack(scheme, linear)]

  it('groups that cross rows come as the matrix of groups', () => {
    // the same 48 weights as [3, 16] in groups of 8 and as [2, 24] in groups of 16
    const shape = new Uint8Array(BigInt64Array.of(2n, 24n).buffer)
    const crossing = withFields(changedPart(tensors, '.shape', { data: shape }), { group_size: 16 })
    const half = (suffix: string, size: number[]) => {
      const found = crossing.find(({ name }) => name === `m.${suffix}`)!
      const data = found.data.slice(0, found.data.length / 2)
      return { shape: size, data, bytes: data.length }
    }
    const scale = half('scale', [3, 1])
    const zero = half('zero', [3, 1])
    const wide = changedPart(changedPart(crossing, '.scale', scale), '.zero', zero)
    // three rows do not fill words of two
    expectFailure(() => hqq.unpack('m', lookupIn(wide), {}), 'bad-input', /m\.W_q packs 3 rows.*words of 2/)
    const bytes = linear.codes
    const words = { dtype: 'U8' as const, shape: [3, 16], bytes: 48, data: bytes }
    const packing = { shape: [7], bytes: 7, data: new TextEncoder().encode('8bit_u8') }
    const eight = withFields(changedPart(changedPart(wide, '.W_q', words), '.packing', packing), { nbits: 8 })
    const read = hqq.unpack('m', lookupIn(eight), {})
    expect(read).toMatchObject({ out: 3, in: 16, bits: 8, codes: linear.codes, groupOf: new Int32Array(16) })
    expect(hqq.detect(sourcesOf(eight), configsFor(hqq, [scheme]))!.get('m')).toMatchObject({
      ...{ out: 2, in: 24, group: 16, groups: 2 },
    })
  })

  it('groups down the columns come decoded', () => {
    const columns = withFields(tensors, { axis: 0 })
    const across = (suffix: string, all: StoredTensor[]) => changedPart(all, suffix, { shape: [1, 6] })
    const words = { shape: [4, 6] } // 8 rows of 6 columns, two to a byte
    const read = hqq.unpack('m', lookupIn(across('.scale', across('.zero', changedPart(columns, '.W_q', words)))), {})
    if (read.decode !== 'dense') throw new Error(read.decode)
    const data = dataOf(tensors, '.W_q')
    const code = (i: number) => (i < 24 ? data[i] >> 4 : data[i - 24] & 15)
    expect([...read.values]).toEqual(
      Array.from({ length: 48 }, (_, i) => Math.fround((code(i) - linear.zeros[i % 6]) * linear.scales[i % 6])),
    )
    expect([read.out, read.in]).toEqual([6, 8])
  })

  it('words that are called floats are the same bytes', () => {
    const flag = changedPart(tensors, '.view_as_float', { data: Uint8Array.of(1) })
    const floats = changedPart(flag, '.W_q', { dtype: 'F16', shape: [3, 4] })
    expect(hqq.unpack('m', lookupIn(floats), {})).toEqual(linear)
    expectFailure(() => hqq.unpack('m', lookupIn(flag), {}), 'bad-input', /m\.W_q is U8, expected F16/)
  })

  it('5 bits stand in whole bytes; a code above them is damage', () => {
    const text = { shape: [7], bytes: 7, data: new TextEncoder().encode('8bit_u8') }
    const bytes = changedPart(tensors, '.W_q', { shape: [6, 8], bytes: 48, data: linear.codes })
    const five = withFields(changedPart(bytes, '.packing', text), { nbits: 5 })
    expect(hqq.unpack('m', lookupIn(five), {})).toEqual({ ...linear, bits: 5 })
    const high = linear.codes.slice()
    high[7] = 32
    const wrong = changedPart(five, '.W_q', { data: high })
    expectFailure(() => hqq.unpack('m', lookupIn(wrong), {}), 'bad-input', /m\.W_q holds 32, more than 5 bits/)
  })

  it('1.58 bits are packed as 2', () => {
    const two = schemeWith({ out: 8, in: 8, bits: 2, group: 8 })
    const ternary = changedPart(stored(two), '.nbits', {
      dtype: 'F32',
      data: new Uint8Array(Float32Array.of(1.58).buffer),
    })
    expect(hqq.unpack('m', lookupIn(ternary), {})).toEqual(linearFor(hqq, two, 1))
  })

  it('real zero points are read as they are', () => {
    const real = { ...linear, zeros: linear.zeros.map(zero => zero + 0.5) }
    expect(hqq.unpack('m', lookupIn(hqq.pack(scheme, real)), {})).toEqual(real)
  })
})

describe('hqq: damaged checkpoints', () => {
  const scheme = schemeWith({ out: 4, in: 64, bits: 4, group: 32 })
  const tensors = stored(scheme)
  const configs = configsFor(hqq, [scheme])
  const text = (value: string) => ({
    shape: [value.length],
    bytes: value.length,
    data: new TextEncoder().encode(value),
  })
  const nan = new Uint8Array(16).fill(0x7e)

  it.each<[string, string, Partial<StoredTensor> | undefined, ErrorCode, RegExp]>([
    ['no scale', '.scale', undefined, 'bad-input', /m\.scale is missing/],
    ['no shape', '.shape', undefined, 'bad-input', /m\.shape is missing/],
    ['no packing', '.packing', undefined, 'bad-input', /m\.packing is missing/],
    ['a wide dtype', '.W_q', { dtype: 'I32' }, 'bad-input', /m\.W_q is I32, expected U8/],
    ['another shape', '.W_q', { shape: [8, 32] }, 'bad-input', /m\.W_q has shape \[8,32\], expected \[4, 32\]/],
    ['few bytes', '.W_q', { bytes: 100 }, 'bad-input', /m\.W_q has 100 bytes/],
    ['an early end', '.W_q', { data: new Uint8Array(9) }, 'bad-input', /m\.W_q ends after 9 of 128 bytes/],
    ['scales of another count', '.scale', { shape: [4, 2] }, 'bad-input', /m\.scale has shape/],
    ['whole zero points', '.zero', { dtype: 'I16' }, 'bad-input', /m\.zero is I16/],
    ['a NaN', '.scale', { data: nan }, 'bad-input', /m\.scale holds an infinite value or a NaN/],
    ['a NaN zero point', '.zero', { data: nan }, 'bad-input', /m\.zero holds/],
    ['3 bits in nibbles', '.nbits', { data: int32(3) }, 'bad-input', /m\.packing says 4bit_u8 for 3 bits/],
    ['no such packing', '.packing', text('7bit\n'), 'bad-input', /m\.packing says .*no packing/],
    ['a long name', '.packing', text('x'.repeat(99)), 'bad-input', /m\.packing has 99 bytes/],
    ['a group of 0', '.group_size', { data: int32(0) }, 'bad-input', /m\.group_size says 0/],
    ['a group that does not divide', '.group_size', { data: int32(48) }, 'bad-input', /m\.group_size says 48/],
    ['another axis', '.axis', { data: int32(2) }, 'bad-input', /m\.axis says 2/],
    ['a shape of 0', '.shape', { data: new Uint8Array(16) }, 'bad-input', /m\.shape says \[0, 0\]/],
    ['a huge shape', '.shape', { data: new Uint8Array(16).fill(127) }, 'bad-input', /m\.shape says/],
    ['a short scalar', '.nbits', { data: new Uint8Array(2) }, 'bad-input', /m\.nbits ends after 2 of 4/],
    ['quantized scales', '.quant_scale', { data: Uint8Array.of(1) }, 'unsupported', /m\.quant_scale: .*cannot be read/],
    ['quantized zeros', '.quant_zero', { data: Uint8Array.of(1) }, 'unsupported', /m\.quant_zero/],
  ])('%s', (_, suffix, change, code, message) => {
    const damaged = changedPart(tensors, suffix, change)
    expectFailure(() => hqq.unpack('m', lookupIn(damaged), configs), code, message)
  })

  it('detect checks the same without codes and scales', () => {
    const wrong = changedPart(tensors, '.zero', { shape: [1, 8] })
    expectFailure(() => hqq.detect(sourcesOf(wrong), configs), 'bad-input', /m\.zero has shape/)
  })

  it.each<[string, object, RegExp]>([
    ['quant_config', { quant_config: 'four' }, /quant_config is "four"/],
    ['skip_modules', { skip_modules: [1] }, /skip_modules is \[1\]/],
    ['quant_method', { quant_method: 7 }, /quant_method is 7/],
  ])('a malformed %s', (_, change, message) => {
    const config = { quantization_config: { quant_method: 'hqq', ...change } }
    expectFailure(() => hqq.detect(new Map(), { 'config.json': config }), 'bad-input', message)
  })

  it('is not found where another format is declared', () => {
    expect(hqq.detect(sourcesOf(tensors), {})).toBeUndefined()
    const config = { quantization_config: { quant_method: 'gptq' } }
    expect(hqq.detect(sourcesOf(tensors), { 'config.json': config })).toBeUndefined()
  })
})

describe('hqq: refuses', () => {
  const sound: SchemeSpec = { out: 8, in: 128, bits: 4, group: 64 }
  it.each<[string, Partial<LinearScheme>, RegExp | undefined]>([
    ['nothing', {}, undefined],
    ['a level grid', { grid: 'nf4' }, /integers, not nf4/],
    ['5 bits', { bits: 5 }, /and 5 as 8; --bits 8/],
    ['blocks', { group: 'block' }, /not for a block/],
    ['tensor: a channel', { group: 'tensor', groups: 1 }, undefined],
    ['g_idx', { actOrder: 'g_idx' }, /--act-order static/],
    ['a group that is no multiple of 8', { in: 120, group: 12, groups: 10 }, /multiple of 8 that divides 120/],
    ['a group that does not divide', { in: 120, group: 64 }, /divides 120 inputs, not of 64; --group channel/],
    ['an odd channel', { in: 172, group: 'channel', groups: 1 }, undefined],
    ['groups that do not fill bytes', { out: 3, bits: 1 }, /6 groups are not a multiple of 8/],
    ['3 bits of them', { out: 3, bits: 3 }, undefined],
  ])('%s', (_, change, message) => {
    const sentence = hqq.refuses({ ...schemeWith(sound), ...change })
    if (message) expect(sentence).toMatch(message)
    else expect(sentence).toBeUndefined()
  })

  it('says which transformers load it', () => {
    expect(hqq.warnings(schemeWith(sound))).toEqual([expect.stringMatching(/transformers 5 does not.*4\.46 to 4\.57/)])
  })
})

interface Written {
  readonly quant_config: Readonly<Record<string, { weight_quant_params: { nbits: number; group_size: number | null } }>>
  readonly skip_modules: readonly string[]
}

describe('hqq: config', () => {
  const linear = (name: string, bits: Bits = 4, group: Group = 64) =>
    schemeWith({ name, out: 8, in: 128, bits, group, role: name === 'lm_head' ? 'head' : 'linear' })
  const written = (linears: LinearScheme[]) =>
    (configsFor(hqq, linears, { model_type: 'llama' })['config.json'] as { quantization_config: Written })
      .quantization_config

  it('is one object where all linears agree', () => {
    const config = written([linear('model.layers.0.mlp.up_proj'), linear('model.layers.1.mlp.up_proj')])
    expect(config).toEqual({
      quant_method: 'hqq',
      quant_config: {
        weight_quant_params: {
          ...{ nbits: 4, channel_wise: true, group_size: 64, optimize: false, round_zero: true, axis: 1 },
          view_as_float: false,
        },
        ...{ scale_quant_params: null, zero_quant_params: null, offload_meta: false },
      },
      skip_modules: ['lm_head'],
    })
  })

  it('is one a tag where they differ, and skips no head that is quantized', () => {
    const config = written([
      linear('model.layers.0.self_attn.q_proj'),
      linear('model.layers.0.mlp.down_proj', 8, 'channel'),
      linear('lm_head', 8),
    ])
    const sizes = Object.entries(config.quant_config).map(([tag, { weight_quant_params: params }]) => [
      tag,
      params.nbits,
      params.group_size,
    ])
    expect(sizes).toEqual([
      ['self_attn.q_proj', 4, 64],
      ['mlp.down_proj', 8, null],
      ['lm_head', 8, 64],
    ])
    expect(config.skip_modules).toEqual([])
  })

  it('without a source config declares itself beside the weights', () => {
    const scheme = linear('m')
    const files = hqq.assemble(undefined, {
      ...{ linears: [scheme], kept: ['a.b'], rest: [], untied: false, method: 'rtn', damp: 0, clip: 'minmax' },
      ...{ version: '1', grid: 'int', bits: 4, symmetric: false, group: 64, actOrder: 'none' },
    })
    expect([...files.keys()]).toEqual(['quantize_config.json'])
    const config = JSON.parse(String(files.get('quantize_config.json')))
    expect(config.skip_modules).toEqual(['lm_head', 'a.b'])
    expect(hqq.detect(sourcesOf(stored(scheme)), { 'quantize_config.json': config })!.size).toBe(1)
  })
})
