import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { QuantizedLinear } from '../../src/contracts.ts'
import { clippedFraction, decibels, measureLinear } from '../../src/report/measure.ts'

const floats = fc.float({ min: -8, max: 8, noNaN: true })
const pairs = fc.array(fc.tuple(floats, floats), { minLength: 1, maxLength: 41 })

describe('measureLinear', () => {
  it('is the plain sums, for any length', () => {
    fc.assert(
      fc.property(pairs, values => {
        const original = Float32Array.from(values, ([w]) => w)
        const decoded = Float32Array.from(values, ([, w]) => w)
        const squares = values.map((_, i) => (original[i] - decoded[i]) ** 2)
        const errorEnergy = squares.reduce((a, b) => a + b, 0)
        const energy = original.reduce((total, w) => total + w * w, 0)
        const measured = measureLinear(original, decoded)
        expect(measured.mse).toBeCloseTo(errorEnergy / values.length, 10)
        expect(measured.maxAbsError).toBe(Math.max(...values.map((_, i) => Math.abs(original[i] - decoded[i]))))
        expect(measured.weights).toBe(values.length)
        if (errorEnergy > 0 && energy > 0) expect(measured.sqnrDb).toBeCloseTo(10 * Math.log10(energy / errorEnergy), 8)
        else expect(measured.sqnrDb).toBeNull()
      }),
    )
  })

  it('sums in float64: 100 000 weights of 1000 with an error of 0.001', () => {
    const original = new Float32Array(100_000).fill(1000)
    const decoded = original.map(w => w + 2 ** -10)
    expect(measureLinear(original, decoded)).toMatchObject({ mse: 2 ** -20, maxAbsError: 2 ** -10, energy: 1e11 })
  })

  it('has no SQNR when nothing is lost, or nothing was there', () => {
    const weights = Float32Array.from([1, -2, 3])
    expect(measureLinear(weights, weights).sqnrDb).toBeNull()
    expect(measureLinear(new Float32Array(3), weights).sqnrDb).toBeNull()
    expect(measureLinear(Float32Array.from([10]), Float32Array.from([9])).sqnrDb).toBeCloseTo(20, 12)
  })

  it('does not compare different lengths', () => {
    expect(() => measureLinear(new Float32Array(2), new Float32Array(3))).toThrow(/2 weights with 3/)
  })
})

it('decibels is 10 log10, to 1e-11 over the whole range of numbers', () => {
  const ratios = fc.double({ min: 1e-300, max: 1e300, noNaN: true })
  fc.assert(
    fc.property(ratios, ratio => {
      expect(decibels(ratio, 1)).toBeCloseTo(10 * Math.log10(ratio), 10)
    }),
  )
  expect([decibels(1, 1), decibels(0, 1), decibels(1, 0), decibels(0, 0)]).toEqual([0, null, null, null])
})

describe('clippedFraction', () => {
  const linear = (codes: number[], scale: number): QuantizedLinear => ({
    decode: 'affine',
    out: 2,
    in: codes.length / 2,
    bits: 2,
    codes: Uint8Array.from(codes),
    scales: Float32Array.of(scale, 2 * scale),
    zeros: Uint8Array.of(1, 2),
    groupOf: new Int32Array(codes.length / 2),
  })

  it('counts weights beyond the outermost level by more than half a step, of outermost codes only', () => {
    // Row 0 reaches −1 … 2 in steps of 1, row 1 −4 … 2 in steps of 2.
    const codes = [0, 0, 3, 3, 1, /* row 1 */ 0, 0, 3, 3, 2]
    const weights = Float32Array.from([-1.5, -1.51, 2.5, 2.51, 9, /* row 1 */ -5, -5.1, 3, 3.1, -9])
    expect(clippedFraction(weights, linear(codes, 1))).toBe(4 / 10)
  })

  it('is the same under negative scales', () => {
    const codes = [0, 0, 3, 3, 1, 0, 0, 3, 3, 2]
    const weights = Float32Array.from([1.5, 1.51, -2.5, -2.51, 9, 5, 5.1, -3, -3.1, -9])
    expect(clippedFraction(weights, linear(codes, -1))).toBe(4 / 10)
  })
})
