import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { LinearScheme, StoredTensor, TensorInfo, TensorLookup } from '../../src/contracts.ts'
import { type ErrorCode, QuantizeError } from '../../src/errors.ts'
import { formats } from '../../src/format/index.ts'
import { infoMap, linearSpecs, lookupIn, randomLinear, schemeFor, schemeOf, sourceOf } from './linears.ts'

const { gptq, 'gptq:v2': gptqV2 } = formats

const spec = { out: 16, in: 64, bits: 4, groups: 2, order: 'none', lowest: 1, seed: 3 } as const
const linear = randomLinear(spec)
const stored = gptq.pack(schemeFor('m', linear), linear)
const sound = { quant_method: 'gptq', bits: 4, group_size: 32, desc_act: false, sym: false, checkpoint_format: 'gptq' }
const configWith = (change: object) => ({ model_type: 'llama', quantization_config: { ...sound, ...change } })

/** The stored tensors with one changed; undefined removes it. */
const changed = (suffix: string, change: Partial<StoredTensor> | undefined): StoredTensor[] =>
  stored.flatMap(tensor => {
    if (tensor.name !== `m.${suffix}`) return [tensor]
    return change ? [{ ...tensor, ...change }] : []
  })

const int32 = (values: readonly number[]): Uint8Array => new Uint8Array(Int32Array.from(values).buffer)

const failure = (run: () => unknown): QuantizeError => {
  try {
    run()
  } catch (error) {
    if (error instanceof QuantizeError) return error
    throw error
  }
  throw new Error('nothing was thrown')
}

const expectFailure = (run: () => unknown, code: ErrorCode, message: RegExp): void => {
  const error = failure(run)
  expect(error.message).toMatch(message)
  expect(error.message).not.toContain('\n')
  expect(error.code).toBe(code)
}

describe('detect', () => {
  it('finds every module with its scheme, by shapes', () => {
    fc.assert(
      fc.property(linearSpecs(1), fc.boolean(), (random, symmetric) => {
        const packed = gptq.pack(schemeFor('model.layers.0.mlp.up_proj', randomLinear(random)), randomLinear(random))
        const tensors = infoMap([...packed, { name: 'model.norm.weight', dtype: 'F16', shape: [4], bytes: 8 }])
        const scheme = schemeOf('model.layers.0.mlp.up_proj', random, symmetric)
        const config = configWith({
          bits: random.bits,
          group_size: random.groups === 1 ? -1 : random.in / random.groups,
          desc_act: random.order === 'g_idx',
          sym: symmetric,
        })
        const expected = new Map<string, LinearScheme>([[scheme.name, scheme]])
        expect(gptq.detect(tensors, { 'config.json': config })).toEqual(expected)
        expect(gptqV2.detect(tensors, { 'config.json': config })).toBeUndefined()
      }),
    )
  })

  it.each<[string, unknown]>([
    ['no config', undefined],
    ['null', null],
    ['a config without quantization', { model_type: 'llama' }],
    ['another method', { quantization_config: { quant_method: 'awq', bits: 4, group_size: 128 } }],
    ['no method', { quantization_config: { bits: 4 } }],
    ['a list', []],
  ])('is undefined for %s', (_, config) => {
    expect(gptq.detect(infoMap(stored), { 'config.json': config })).toBeUndefined()
  })

  it('reads a bare quantize_config.json, of ours or of AutoGPTQ', () => {
    const { quant_method, checkpoint_format, ...legacy } = sound
    for (const config of [sound, legacy])
      expect(gptq.detect(infoMap(stored), { 'config.json': config })?.get('m')).toEqual(schemeOf('m', spec, false))
  })

  it('takes shapes over the defaults where `dynamic` overrides some', () => {
    const config = configWith({ bits: 8, group_size: 64, dynamic: { '+:.*': { bits: 4, group_size: 32 } } })
    expect(gptq.detect(infoMap(stored), { 'config.json': config })?.get('m')).toMatchObject({
      bits: 4,
      group: 32,
      groups: 2,
    })
    const dense = configWith({ bits: 8, dynamic: { '-:^x$': {} } })
    expectFailure(
      () => gptq.detect(infoMap(stored), { 'config.json': dense }),
      'bad-input',
      /4-bit words, the config says bits 8/,
    )
  })

  it('knows a last group that is shorter', () => {
    const short = randomLinear({ ...spec, groups: 1 })
    const ragged = { ...linear, groupOf: short.groupOf.map((_, i) => Math.floor(i / 48)) }
    const config = configWith({ group_size: 48 })
    const packed = gptq.pack(schemeFor('m', ragged), ragged).filter(({ name }) => name !== 'm.g_idx')
    expect(gptq.detect(infoMap(packed), { 'config.json': config })?.get('m')).toMatchObject({ group: 48, groups: 2 })
    expect(gptq.unpack('m', lookupIn(packed), { 'config.json': config })).toEqual(ragged)
  })
})

describe('a malformed config is an error that names the field', () => {
  it.each<[object, ErrorCode, RegExp]>([
    [{ bits: '4' }, 'bad-input', /bits is "4"; expected 2, 3, 4 or 8/],
    [{ bits: 5 }, 'bad-input', /bits is 5/],
    [{ bits: undefined }, 'bad-input', /bits is undefined/],
    [{ bits: Number.NaN }, 'bad-input', /bits is null/],
    [{ group_size: -2 }, 'bad-input', /group_size is -2/],
    [{ group_size: 0 }, 'bad-input', /group_size is 0/],
    [{ group_size: 1.5 }, 'bad-input', /group_size is 1.5/],
    [{ group_size: 1e300 }, 'bad-input', /group_size is 1e\+300/],
    [{ group_size: '128' }, 'bad-input', /group_size is "128"/],
    [{ group_size: 128 }, 'bad-input', /2 groups for 64 inputs, the config says group_size 128/],
    [{ sym: 1 }, 'bad-input', /sym is 1; expected true or false/],
    [{ desc_act: 'no' }, 'bad-input', /desc_act is "no"/],
    [{ static_groups: {} }, 'bad-input', /static_groups is {}/],
    [{ dynamic: [] }, 'bad-input', /dynamic is \[\]/],
    [{ quant_method: 7 }, 'bad-input', /quant_method is 7/],
    [{ checkpoint_format: 1 }, 'bad-input', /checkpoint_format is 1/],
    [{ format: 'gptq_v2' }, 'bad-input', /format is "gptq_v2"; expected "gptq", as checkpoint_format says/],
    [{ checkpoint_format: 'marlin' }, 'unsupported', /"marlin" cannot be read; gptq and gptq_v2 can/],
    [{ checkpoint_format: 'x'.repeat(5000) }, 'unsupported', /…/],
    [{ pack_dtype: 'int16' }, 'unsupported', /int16/],
  ])('%j', (change, code, message) => {
    const config = configWith(change)
    expectFailure(() => gptq.detect(infoMap(stored), { 'config.json': config }), code, message)
    expectFailure(() => gptq.unpack('m', lookupIn(stored), { 'config.json': config }), code, message)
  })

  it('quantization_config that is no object', () => {
    expectFailure(
      () => gptq.detect(infoMap(stored), { 'config.json': { quantization_config: 'gptq' } }),
      'bad-input',
      /quantization_config/,
    )
  })
})

describe('a damaged tensor is an error that names it', () => {
  const shapes: [string, Partial<StoredTensor> | undefined, RegExp][] = [
    ['qweight', { dtype: 'F16' }, /^model.safetensors: m.qweight is F16, expected I32/],
    ['qzeros', { dtype: 'I64' }, /m.qzeros is I64/],
    ['scales', { dtype: 'I32' }, /m.scales is I32, expected F16 or BF16 or F32/],
    ['g_idx', { dtype: 'I64' }, /m.g_idx is I64/],
    ['qzeros', undefined, /m.qzeros is missing/],
    ['scales', undefined, /m.scales is missing/],
    ['qweight', { shape: [128] }, /m.qweight has shape \[128\], expected \[n, n\]/],
    ['qweight', { shape: [0, 16], bytes: 0 }, /expected \[n, n\]/],
    ['qweight', { shape: [8, -16] }, /expected \[n, n\]/],
    ['qweight', { shape: [8, 15], bytes: 480 }, /m.qweight has shape \[8,15\], which does not fit 16 outputs/],
    ['qweight', { shape: [8, 16], bytes: 511 }, /m.qweight has 511 bytes, its shape \[8,16\] takes 512/],
    ['qzeros', { shape: [2, 3], bytes: 24 }, /m.qzeros has shape \[2,3\], which no bit width gives/],
    ['qzeros', { shape: [1, 2], bytes: 8 }, /m.qzeros/],
    ['scales', { shape: [128, 16], bytes: 4096 }, /m.qzeros/],
    ['g_idx', { shape: [63], bytes: 252 }, /m.g_idx has 63 entries for 64 inputs/],
  ]
  it.each(shapes)('%s %j', (suffix, change, message) => {
    const tensors = changed(suffix, change)
    expectFailure(() => gptq.unpack('m', lookupIn(tensors), { 'config.json': configWith({}) }), 'bad-input', message)
    const detectMessage = new RegExp(message.source.replace('^model.safetensors: ', ''))
    expectFailure(() => gptq.detect(infoMap(tensors), { 'config.json': configWith({}) }), 'bad-input', detectMessage)
  })

  const contents: [string, string, Partial<StoredTensor>, RegExp][] = [
    [
      'a group too high',
      'g_idx',
      { data: int32([...linear.groupOf].map((g, i) => (i === 5 ? 2 : g))) },
      /group 2 for input 5, of 2 groups/,
    ],
    [
      'a negative group',
      'g_idx',
      { data: int32([...linear.groupOf].map((g, i) => (i === 63 ? -1 : g))) },
      /group -1 for input 63/,
    ],
    [
      'an infinite scale',
      'scales',
      { data: new Uint8Array(Uint16Array.from({ length: 32 }, () => 0x7c00).buffer) },
      /infinite value/,
    ],
    ['words cut short', 'qweight', { data: stored[0].data.slice(0, 100) }, /ends after 100 of 512 bytes/],
    ['zeros cut short', 'qzeros', { data: stored[1].data.slice(0, 3) }, /ends after 3 of/],
  ]
  it.each(contents)('%s', (_, suffix, change, message) => {
    expectFailure(
      () => gptq.unpack('m', lookupIn(changed(suffix, change)), { 'config.json': configWith({}) }),
      'bad-input',
      message,
    )
  })

  it('a module that is not there, and act-order without g_idx', () => {
    expectFailure(
      () => gptq.unpack('n', lookupIn(stored), { 'config.json': configWith({}) }),
      'bad-input',
      /n.qweight is missing/,
    )
    const tensors = changed('g_idx', undefined)
    expectFailure(
      () => gptq.unpack('m', lookupIn(tensors), { 'config.json': configWith({ desc_act: true }) }),
      'bad-input',
      /no g_idx/,
    )
  })

  it('a name that would break the line', () => {
    const info: TensorInfo = { name: 'a\n\u001b[2J.qweight', dtype: 'F16', shape: [1], bytes: 2 }
    expectFailure(() => gptq.detect(infoMap([info]), { 'config.json': configWith({}) }), 'bad-input', /^[\x20-\x7e]+$/)
  })

  it('any shapes at all: a scheme or a QuantizeError, never another error', () => {
    const shape = fc.array(fc.oneof(fc.integer({ min: -1, max: 64 }), fc.constant(2 ** 53)), { maxLength: 3 })
    const tensor = fc.record({ shape, dtype: fc.constantFrom('I32' as const, 'F16' as const), bytes: fc.nat(4096) })
    const tensors = fc.record({ qweight: tensor, qzeros: tensor, scales: tensor, g_idx: tensor }, { requiredKeys: [] })
    fc.assert(
      fc.property(tensors, parts => {
        const infos = Object.entries(parts).map(([suffix, part]): TensorInfo => ({ name: `m.${suffix}`, ...part }))
        try {
          gptq.detect(infoMap(infos), { 'config.json': configWith({}) })
        } catch (error) {
          expect(error).toBeInstanceOf(QuantizeError)
        }
      }),
    )
  })
})

it('unpack reads each tensor once, and only the module asked for', () => {
  const reads: string[] = []
  const byName = new Map(stored.map(tensor => [tensor.name, sourceOf(tensor)]))
  const lookup: TensorLookup = name => {
    const source = byName.get(name)
    if (!source) return undefined
    const read = () => {
      reads.push(name)
      return source.read()
    }
    return { ...source, read }
  }
  gptq.unpack('m', lookup, { 'config.json': configWith({}) })
  expect(reads.sort()).toEqual(['m.g_idx', 'm.qweight', 'm.qzeros', 'm.scales'])
})

it('unpack takes scales of other dtypes and bytes at odd addresses', () => {
  const wide = { dtype: 'F32' as const, bytes: 128 }
  const scales = new Uint8Array(linear.scales.length * 4)
  const transposed = Float32Array.from({ length: 32 }, (_, i) => linear.scales[(i % 16) * 2 + Math.floor(i / 16)])
  scales.set(new Uint8Array(transposed.buffer))
  const byName = new Map(changed('scales', { ...wide, data: scales }).map(tensor => [tensor.name, sourceOf(tensor)]))
  const lookup: TensorLookup = name => {
    const source = byName.get(name)
    if (!source) return undefined
    const shifted = new Uint8Array(source.bytes + 1)
    shifted.set(source.read(), 1)
    return { ...source, read: () => shifted.subarray(1) }
  }
  expect(gptq.unpack('m', lookup, { 'config.json': configWith({}) })).toEqual(linear)
})
