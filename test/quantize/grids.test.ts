/** Tables of levels against published values, and what every grid promises. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { GridName, LevelGrid, Storage } from '../../src/contracts.ts'
import { dequantize } from '../../src/dequantize.ts'
import { dynamicMap } from '../../src/dtype/dynamic-map.ts'
import { coderOf, gridNamed, levelGrids } from '../../src/quantize/grid/index.ts'
import { biasedCoder, uniformGrid } from '../../src/quantize/grid/uniform.ts'
import { nestScales, unnest } from '../../src/quantize/nested.ts'
import { roundScale } from '../../src/quantize/storage.ts'
import { byReference, randomWeights } from '../helpers/linears.ts'

const f32: Storage = { decode: 'levels', scaleDtype: 'F32' }
const coded = (name: LevelGrid['name'], weight: number): number =>
  coderOf(levelGrids[name], f32).encode(weight, { scale: 1, offset: 0 })
const value = (name: LevelGrid['name'], weight: number): number => levelGrids[name].levels[coded(name, weight)]

describe('values and codes', () => {
  it.each<[LevelGrid['name'], number, number]>([
    ['fp8', 1, 0x38],
    ['fp8', 448, 0x7e],
    ['fp8', 1e9, 0x7e],
    ['fp8', -448, 0xfe],
    ['fp8', 2 ** -9, 1],
    ['fp8', 0, 0],
    ['fp8', -0, 0],
    ['fp8-e5m2', 1, 0x3c],
    ['fp8-e5m2', 57344, 0x7b],
    ['fp8-e5m2', 2 ** -16, 1],
    ['fp4', 6, 7],
    ['fp4', -6, 15],
    ['fp4', 0.5, 1],
    ['bnb-fp4', 1, 3],
    ['bnb-fp4', -0.25, 15],
    ['nf4', 1, 15],
    ['nf4', -1, 0],
    ['nf4', 0, 7],
  ])('%s of %d is code %i', (name, weight, code) => expect(coded(name, weight)).toBe(code))

  it('FP4: ties go to even mantissas', () => {
    const ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5]
    expect(ties.map(tie => value('fp4', tie))).toEqual([0, 1, 1, 2, 2, 4, 4])
    expect(ties.map(tie => value('fp4', -tie))).toEqual([0, -1, -1, -2, -2, -4, -4])
  })

  it('FP8: ties go to even codes, everywhere', () => {
    const { values, levels } = levelGrids.fp8
    for (let i = 1; i < values.length; i++) {
      const code = coded('fp8', (values[i - 1] + values[i]) / 2)
      expect(code % 2).toBe(0)
      expect([values[i - 1], values[i]]).toContain(levels[code] + 0)
    }
  })

  it('NF4: 64 points from −1 to 1, as bitsandbytes codes them', () => {
    const points = Float32Array.from({ length: 64 }, (_, i) => -1 + (2 * i) / 63)
    const nibbles = [...points].map(point => coded('nf4', point).toString(16)).join('')
    const packed = nibbles.match(/../g)!.join(' ')
    expect(packed).toBe(
      '00 00 01 11 11 11 12 22 22 33 34 44 45 55 66 67 78 88 99 aa ab bb cc cc dd dd ee ee ee ef ff ff',
    )
  })

  it('the dynamic map has 256 ascending values from −0.992968738 to 1', () => {
    const map = dynamicMap()
    expect(map).toHaveLength(256)
    expect(map[0]).toBeCloseTo(-0.992968738, 8)
    expect(map[255]).toBe(1)
    expect(map.includes(0)).toBe(true)
    for (let i = 1; i < 256; i++) expect(map[i]).toBeGreaterThan(map[i - 1])
  })
})

describe('scales of powers of two', () => {
  it.each([
    ['mxfp4', 1, 125],
    ['mxfp4', 1.74, 125],
    ['mxfp4', 1.75, 126],
    ['mxfp4', 3.49, 126],
    ['mxfp4', 3.5, 127],
    ['mxfp8', 1, 119],
    ['mxfp8', 1.75, 120],
  ] as const)('%s: largest magnitude %d has exponent byte %i', (name, absmax, exponent) => {
    const { scale } = coderOf(levelGrids[name], { ...f32, scaleDtype: 'E8M0' }).parameters({ low: -absmax, high: 0 })
    expect(Math.log2(scale) + 127).toBe(exponent)
  })

  it('E4M3 scales are E4M3 values, the nearest ones, subnormals among them', () => {
    const { values } = levelGrids.fp8
    const positive = values.filter(x => x > 0)
    fc.assert(
      fc.property(fc.float({ min: Math.fround(2 ** -12), max: 448, noNaN: true }), scale => {
        const stored = roundScale(scale, 'E4M3')
        expect(positive).toContain(stored)
        const least = positive.reduce((most, x) => Math.min(most, Math.abs(x - scale)), 1e9)
        expect(Math.abs(stored - scale)).toBe(least)
      }),
    )
  })
})

describe('the biased grid', () => {
  const coder = (bits: 3 | 4) =>
    biasedCoder(uniformGrid(bits, false), { decode: 'biased', scaleDtype: 'F32', biasDtype: 'F32' })

  it("is MLX's rule: −16 … 15 in steps of 2 from −16, and its words", () => {
    const weights = Float32Array.from({ length: 32 }, (_, i) => i - 16)
    for (const [bits, scale, expected] of [
      [4, 2, '43222100 87666544 CBAAA988 FFEEEDCC'],
      [3, 4, '92489200 DB2491B6 FFFFB6DA'],
    ] as const) {
      const { parameters, encode } = coder(bits)
      const found = parameters({ low: -16, high: 15 })
      expect(found).toEqual({ scale, offset: -16 })
      const stream = [...weights].reduce((sum, w, i) => sum | (BigInt(encode(w, found)) << BigInt(bits * i)), 0n)
      const words = expected.split(' ').map((_, i) => Number((stream >> BigInt(32 * i)) & 0xffffffffn))
      expect(words.map(word => word.toString(16).toUpperCase().padStart(8, '0')).join(' ')).toBe(expected)
    }
  })

  it('has a negative scale where the high end is the farther one, and zero on a code', () =>
    fc.assert(
      fc.property(
        fc.float({ min: Math.fround(0.01), max: 4, noNaN: true }),
        fc.float({ min: Math.fround(0.01), max: 1, noNaN: true }),
        (high, part) => {
          const { parameters, encode, decode } = coder(4)
          const found = parameters({ low: Math.fround(-high * part * 0.99), high })
          expect(found.scale).toBeLessThan(0)
          expect(found.offset).toBe(high)
          expect(Math.abs(decode(encode(0, found), found))).toBeLessThanOrEqual(high * 2 ** -22)
        },
      ),
    ))
})

describe('every grid', () => {
  const names: readonly GridName[] = ['int', ...(Object.keys(levelGrids) as LevelGrid['name'][])]
  const storageOf = (name: GridName): Storage =>
    name === 'int' ? { decode: 'affine', scaleDtype: 'F32', zeroRange: [0, 15] } : f32

  it.each(names)('%s: a weight decodes to the nearest value that there is', name => {
    const W = randomWeights(3, 32, 11)
    const bits = name === 'int' ? 4 : levelGrids[name].bits
    const setting = {
      out: 3,
      in: 32,
      grid: name,
      bits,
      symmetric: true,
      clip: 'minmax',
      group: 16,
      dtype: 'F32',
    } as const
    const { quantized } = byReference(W, { ...setting, storage: storageOf(name) })
    const decoded = dequantize(quantized)
    const grid = gridNamed(name, bits, true)
    const values = grid.kind === 'levels' ? [...grid.values] : Array.from({ length: 16 }, (_, code) => code - 8)
    for (const [i, weight] of W.entries()) {
      const scale = quantized.scales[Math.floor(i / 32) * 2 + Math.floor((i % 32) / 16)]
      const least = Math.min(...values.map(level => Math.abs(weight - level * scale)))
      expect(Math.abs(weight - decoded[i])).toBeLessThanOrEqual(least + 1e-7)
    }
  })

  it.each(names)('%s: error feedback with an identity Gram matrix is rounding to nearest', name => {
    const W = randomWeights(5, 24, 3)
    const bits = name === 'int' ? 4 : levelGrids[name].bits
    const setting = {
      out: 5,
      in: 24,
      grid: name,
      bits,
      symmetric: true,
      clip: 'minmax',
      group: 8,
      dtype: 'F32',
    } as const
    const U = Float32Array.from({ length: 24 * 24 }, (_, i) => (i % 25 === 0 ? 1 : 0))
    const fed = byReference(W, { ...setting, storage: storageOf(name) }, { U, actOrder: 'static' })
    expect(fed.quantized).toEqual(byReference(W, { ...setting, storage: storageOf(name) }).quantized)
  })
})

describe('scales of two levels', () => {
  const setting = { out: 6, in: 64, bits: 4, symmetric: true, clip: 'minmax', group: 16, dtype: 'F32' } as const
  const W = randomWeights(6, 64, 5)
  const absmax = W.reduce((most, w) => Math.max(most, Math.abs(w)), 0)

  it('global: 448 · 6 / absmax, under which stored scales are E4M3', () => {
    const storage = { decode: 'levels', scaleDtype: 'E4M3', second: 'global' } as const
    const { globalScale, scales } = byReference(W, { ...setting, grid: 'nvfp4', storage }).quantized
    expect(globalScale).toBeCloseTo(2688 / absmax, 2)
    for (const scale of scales) {
      const stored = scale * globalScale!
      expect(roundScale(Math.fround(stored), 'E4M3') / stored).toBeCloseTo(1, 6)
    }
    const shared = byReference(W, { ...setting, grid: 'nvfp4', storage, shared: 2 * absmax }).quantized
    expect(shared.globalScale).toBeCloseTo(1344 / absmax, 2)
  })

  it('nested: 8-bit codes around the mean, within their step of what was fitted', () => {
    const fitted = Float32Array.from(randomWeights(1, 700, 9), x => 0.05 + Math.abs(x))
    const { scales, nested } = nestScales(fitted)
    expect(nested!.codes).toHaveLength(700)
    expect(nested!.absmax).toHaveLength(3)
    expect(unnest(nested!)).toEqual(scales)
    for (const [i, scale] of scales.entries()) {
      expect(scale).toBeGreaterThan(0)
      expect(Math.abs(scale - fitted[i])).toBeLessThan(0.02 * nested!.absmax[Math.floor(i / 256)] + 1e-7)
    }
  })

  it('a block has one scale: that of its largest weight', () => {
    const big = randomWeights(200, 130, 4)
    const { scales, groupOf } = byReference(big, {
      ...setting,
      out: 200,
      in: 130,
      bits: 8,
      grid: 'fp8',
      group: 'block',
      storage: f32,
    }).quantized
    expect(scales).toHaveLength(200 * 2)
    expect(groupOf[127]).toBe(0)
    expect(groupOf[128]).toBe(1)
    for (const [top, end] of [
      [0, 128],
      [128, 200],
    ])
      for (const [left, right, group] of [
        [0, 128, 0],
        [128, 130, 1],
      ]) {
        let largest = 0
        for (let row = top; row < end; row++)
          for (let col = left; col < right; col++) largest = Math.max(largest, Math.abs(big[row * 130 + col]))
        for (let row = top; row < end; row++) expect(scales[row * 2 + group]).toBe(Math.fround(largest / 448))
      }
  })
})
