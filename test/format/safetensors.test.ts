import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { AssembleFacts, Format, LinearScheme, StoredTensor } from '../../src/contracts.ts'
import { dequantize } from '../../src/dequantize.ts'
import { fromFloat32, toFloat32 } from '../../src/dtype/convert.ts'
import type { WeightDtype } from '../../src/dtype/dtype.ts'
import { QuantizeError } from '../../src/errors.ts'
import { formats } from '../../src/format/index.ts'
import { anyLinear, linearOf } from './any-linear.ts'
import { infoMap, lookupIn } from './linears.ts'

const all: [string, WeightDtype | undefined][] = [
  ['safetensors', undefined],
  ['safetensors:bf16', 'BF16'],
  ['safetensors:f16', 'F16'],
  ['safetensors:f32', 'F32'],
]

const formatOf = (name: string): Format => formats[name as keyof typeof formats]

const scheme: LinearScheme = {
  ...{ name: 'm', role: 'linear', out: 2, in: 4, dtype: 'F16', grid: 'int', bits: 4, symmetric: true },
  ...{ group: 'channel', groups: 1, actOrder: 'none' },
}

const small = linearOf(scheme, 2)

describe.each(all)('%s', (name, fixed) => {
  const format = formatOf(name)

  it('stores the decoded weights, rounded to its dtype, where layout says', () => {
    fc.assert(
      fc.property(anyLinear('a.b'), ({ scheme, linear }) => {
        const dtype = fixed ?? scheme.dtype
        const stored = format.pack(scheme, linear)
        expect(stored.map(({ data, ...info }) => info)).toEqual(format.layout(scheme))
        expect(stored[0]).toMatchObject({ name: 'a.b.weight', dtype, shape: [scheme.out, scheme.in] })
        expect(stored[0].data.byteLength).toBe(stored[0].bytes)
        const rounded = toFloat32(fromFloat32(dequantize(linear), dtype), dtype)
        const read = format.unpack('a.b', lookupIn(stored), {})
        expect(Buffer.from(dequantize(read).buffer).equals(Buffer.from(rounded.buffer))).toBe(true)
      }),
      { numRuns: 60 },
    )
  })

  it('is no quantized checkpoint', () => {
    const tensors = infoMap(format.pack(scheme, small))
    expect(format.detect(tensors, { 'config.json': { model_type: 'llama' } })).toBeUndefined()
  })

  it('takes every scheme', () => {
    fc.assert(
      fc.property(anyLinear('a.b'), ({ scheme }) => {
        expect(format.refuses(scheme)).toBeUndefined()
        expect(format.warnings(scheme)).toEqual([])
      }),
    )
  })
})

describe('rounding', () => {
  const only = (value: number) => ({ ...small, scales: small.scales.fill(value), codes: small.codes.map(() => 9) })

  it('goes to the even neighbour', () => {
    const bits = (format: string, value: number): number =>
      new Uint16Array(formatOf(format).pack(scheme, only(value))[0].data.buffer)[0]
    expect(bits('safetensors:bf16', 1 + 2 ** -8)).toBe(0x3f80)
    expect(bits('safetensors:bf16', 1 + 3 * 2 ** -8)).toBe(0x3f82)
    expect(bits('safetensors:f16', 1 + 2 ** -11)).toBe(0x3c00)
    expect(bits('safetensors:f16', 65519)).toBe(0x7bff)
  })

  it.each([
    [
      'safetensors:f16',
      65520,
      /m\.weight holds 65520, more than F16 can hold; safetensors:bf16 or safetensors:f32 can/,
    ],
    ['safetensors', 65520, /more than F16 can hold/],
    ['safetensors:bf16', 3.4e38, /more than BF16 can hold; safetensors:f32 can/],
    ['safetensors:f32', Number.POSITIVE_INFINITY, /holds Infinity, more than F32 can hold/],
  ])('to infinity is refused: %s of %d', (name, value, message) => {
    let caught: unknown
    try {
      formatOf(name).pack(scheme, only(value))
    } catch (error) {
      caught = error
    }
    expect(caught).toBeInstanceOf(QuantizeError)
    expect(caught).toMatchObject({ code: 'unsupported', lasting: true, message: expect.stringMatching(message) })
  })

  it('leaves out what blocks over the flattened weight have behind it', () => {
    const blocks = linearOf({ ...scheme, out: 2, in: 8 }, 4)
    const [stored] = formats['safetensors:f32'].pack({ ...scheme, out: 3, in: 5 }, blocks)
    expect(stored.shape).toEqual([3, 5])
    expect([...toFloat32(stored.data, 'F32')]).toEqual([...dequantize(blocks).subarray(0, 15)])
  })
})

describe('a damaged weight', () => {
  const [sound] = formats.safetensors.pack(scheme, small)
  it.each<[Partial<StoredTensor>, RegExp]>([
    [{ name: 'other' }, /^m\.weight is missing/],
    [{ dtype: 'I8' }, /m\.weight is I8, expected F32 or F16 or BF16/],
    [{ shape: [8] }, /m\.weight has shape \[8\], expected \[n, n\]/],
    [{ shape: [0, 4] }, /has shape \[0,4\], expected \[n, n\]/],
    [{ shape: [2, 5] }, /has 16 bytes, its shape \[2,5\] takes 20/],
    [{ data: new Uint8Array(3) }, /ends after 3 of 16 bytes/],
    [{ data: new Uint8Array(16).fill(0xff) }, /holds an infinite weight or a NaN/],
  ])('%#', (change, message) => {
    const read = () => formats.safetensors.unpack('m', lookupIn([{ ...sound, ...change }]), {})
    expect(read).toThrow(QuantizeError)
    expect(read).toThrow(message)
  })
})

describe('config.json', () => {
  const facts = (...dtypes: WeightDtype[]): AssembleFacts => ({
    ...{ linears: dtypes.map(dtype => ({ ...scheme, dtype })), kept: [], rest: [], untied: false, method: 'convert' },
    ...{ grid: 'int', bits: 4, symmetric: true, group: 'channel', actOrder: 'none', damp: 0, clip: 'minmax' },
    version: '1',
  })
  const written = (name: string, source: object, ...dtypes: WeightDtype[]): object =>
    JSON.parse(
      formatOf(name)
        .assemble({ ...source }, facts(...dtypes))
        .get('config.json') as string,
    )

  it('says nothing of a quantization', () => {
    const quantized = { quantization_config: {}, quantization: {}, compression_config: {}, model_type: 'llama' }
    for (const [name] of all)
      expect(Object.keys(written(name, quantized, 'F16')).sort()).toEqual(['model_type', 'torch_dtype'])
  })

  it.each<[string, object, WeightDtype[], object]>([
    ['safetensors:f16', { torch_dtype: 'bfloat16' }, ['BF16'], { torch_dtype: 'float16' }],
    ['safetensors:f32', { dtype: 'bfloat16' }, ['BF16', 'F16'], { dtype: 'float32' }],
    ['safetensors:bf16', { dtype: 'a', torch_dtype: 'a' }, ['F16'], { dtype: 'bfloat16', torch_dtype: 'bfloat16' }],
    ['safetensors', { torch_dtype: 'float16' }, ['F16', 'F16'], { torch_dtype: 'float16' }],
    ['safetensors', { torch_dtype: 'bfloat16' }, ['F16'], { torch_dtype: 'float16' }],
    ['safetensors', { torch_dtype: 'bfloat16' }, ['F16', 'BF16'], { torch_dtype: 'bfloat16' }],
  ])('%s from %j with weights of %j', (name, source, dtypes, expected) =>
    expect(written(name, source, ...dtypes)).toEqual(expected),
  )

  it('is not made up for a lone file', () => expect(formats.safetensors.assemble(undefined, facts('F16')).size).toBe(0))
})
