import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { CodedLinear, LinearScheme, Storage } from '../src/contracts.ts'
import { dequantize } from '../src/dequantize.ts'
import { repack, repackNear } from '../src/repack.ts'
import { linearOf } from './format/any-linear.ts'
import { type LinearSpec, linearSpecs, randomLinear, schemeOf } from './format/linears.ts'

const affine = { decode: 'affine', scaleDtype: 'F16', zeroRange: [0, 255] } as const
const biased = { decode: 'biased', scaleDtype: 'F16', biasDtype: 'F32' } as const
const targetOf = (spec: LinearSpec, groups = spec.groups): LinearScheme => schemeOf('m', { ...spec, groups })

/** Repacks and holds the promise: the same values, or nothing. */
const repacked = (linear: CodedLinear, scheme: LinearScheme, storage: Storage): CodedLinear | undefined => {
  const result = repack(linear, scheme, storage)
  if (result) expect([...dequantize(result)].map(x => x + 0)).toEqual([...dequantize(linear)].map(x => x + 0))
  return result
}

describe('repack', () => {
  it('keeps a linear whose storage is the same', () =>
    fc.assert(
      fc.property(linearSpecs(0), spec => {
        const linear = randomLinear({ ...spec, order: 'none' })
        expect(repacked(linear, targetOf(spec), affine)).toEqual(linear)
      }),
    ))

  it('cuts groups into smaller ones with the same scales', () => {
    const spec = { out: 6, in: 64, bits: 4, groups: 2, order: 'none', lowest: 0, seed: 5 } as const
    const linear = randomLinear(spec)
    expect(repacked(linear, targetOf(spec, 8), affine)?.scales).toHaveLength(6 * 8)
    expect(repacked(randomLinear({ ...spec, groups: 1 }), targetOf(spec, 4), affine)).toBeDefined()
    expect(repacked(linear, targetOf(spec, 1), affine), 'larger ones').toBeUndefined()
    expect(repacked(randomLinear({ ...spec, order: 'g_idx' }), targetOf(spec), affine), 'scattered').toBeUndefined()
  })

  it('turns zero points into biases and back, where the biases’ dtype holds them', () =>
    fc.assert(
      fc.property(linearSpecs(0), spec => {
        const linear = randomLinear({ ...spec, order: 'none' })
        const there = repacked(linear, targetOf(spec), biased)
        expect(there).toBeDefined()
        expect(repacked(there!, targetOf(spec), affine)?.zeros).toEqual(linear.zeros)
      }),
    ))

  it('gives groups of zeros, which have no zero point of their own, the one in the middle', () => {
    const linear = randomLinear({ out: 2, in: 32, bits: 4, groups: 1, order: 'none', lowest: 0, seed: 1 })
    const dead = { ...linear, scales: Float32Array.of(0, 2), zeros: Float32Array.of(3, 8) }
    const target = targetOf({ out: 2, in: 32, bits: 4, groups: 1, order: 'none', lowest: 0, seed: 1 })
    const there = repacked(dead, target, biased)
    expect(repacked(there!, { ...target, symmetric: true }, affine)?.zeros).toEqual(Float32Array.of(8, 8))
    const constant = { ...there!, biases: Float32Array.of(1, -16) }
    expect(repacked(constant, target, affine), 'a constant that is not zero').toBeUndefined()
  })

  it('keeps E4M3 scales under a global one, though their quotient was rounded', () => {
    const scheme: LinearScheme = {
      ...{ name: 'm', role: 'linear', out: 8, in: 64, dtype: 'BF16', grid: 'nvfp4', bits: 4, symmetric: true },
      ...{ group: 16, groups: 4, actOrder: 'none' },
    }
    const storage: Storage = { decode: 'levels', scaleDtype: 'E4M3', second: 'global' }
    fc.assert(
      fc.property(fc.nat(), seed => {
        const linear = linearOf(scheme, seed)
        expect(repacked(linear, scheme, storage)).toEqual(linear)
        const near = linear.scales.map(scale => scale * (1 + 2 ** -22))
        expect(repack({ ...linear, scales: near }, scheme, storage)).toBeUndefined()
      }),
    )
  })

  it('keeps the codes near a linear whose scales and biases are rounded to the dtypes', () => {
    const spec = { out: 8, in: 64, bits: 4, groups: 2, order: 'none', lowest: 0, seed: 3 } as const
    const plain = randomLinear(spec)
    const linear = { ...plain, scales: plain.scales.map(scale => Math.abs(scale) * (1 + 2 ** -20)) }
    expect(repack(linear, targetOf(spec), affine)).toBeUndefined()
    const near = repackNear(linear, targetOf(spec), affine)!
    expect(near.codes).toEqual(linear.codes)
    expect(near.scales.every((scale, i) => Math.abs(scale / linear.scales[i] - 1) <= 2 ** -11)).toBe(true)
    expect(repackNear(linear, targetOf(spec), { ...affine, zeroRange: [16, 16] }), 'zero points').toBeUndefined()
    expect(repackNear(linear, { ...targetOf(spec), bits: 8 }, affine), 'another width').toBeUndefined()
    expect(repackNear(linear, targetOf(spec), { ...affine, second: 'global' }), 'a second level').toBeUndefined()
  })

  it.each<[string, Partial<CodedLinear>, Partial<LinearScheme>, Storage]>([
    ['a scale that the dtype does not hold', { scales: Float32Array.of(1 / 3) }, {}, affine],
    [
      'a bias that the dtype does not hold',
      { scales: Float32Array.of(1 + 2 ** -10), zeros: Float32Array.of(7) },
      {},
      { ...biased, biasDtype: 'F16' },
    ],
    ['a zero point out of range', { zeros: Float32Array.of(0) }, {}, { ...affine, zeroRange: [1, 15] }],
    ['a real zero point', { zeros: Float32Array.of(7.5) }, {}, affine],
    ['a zero point that a symmetric layout does not store', { zeros: Float32Array.of(7) }, { symmetric: true }, affine],
    ['another width', {}, { bits: 8 }, affine],
    ['another decoding', {}, {}, { decode: 'levels', scaleDtype: 'F32' }],
    ['a scale that is no power of two', { scales: Float32Array.of(3) }, {}, { ...affine, scaleDtype: 'E8M0' }],
    ['a scale of five bits', { scales: Float32Array.of(17) }, {}, { ...affine, scaleDtype: 'E4M3' }],
    ['a second level that is not there', {}, {}, { ...affine, scaleDtype: 'E4M3', second: 'global' }],
  ])('refuses %s', (_, change, target, storage) => {
    const spec = { out: 1, in: 32, bits: 4, groups: 1, order: 'none', lowest: 1, seed: 1 } as const
    const linear = { ...randomLinear(spec), zeros: Float32Array.of(8), scales: Float32Array.of(2), ...change }
    expect(repack(linear, { ...targetOf(spec), ...target }, storage)).toBeUndefined()
    const { scales, zeros, ...rest } = change
    if (Object.keys(target).length === 0 && (scales || zeros) && Object.keys(rest).length === 0)
      expect(
        repack({ ...linear, scales: Float32Array.of(2), zeros: Float32Array.of(8) }, targetOf(spec), storage),
      ).toBeDefined()
  })
})
