import fc from 'fast-check'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import type { Bits, CodedLinear } from '../../../src/contracts.ts'
import { dequantize } from '../../../src/dequantize.ts'
import { fromFloat32, toFloat32 } from '../../../src/dtype/convert.ts'
import { measureRows, type Values } from '../../../src/engine/kernel/measure.ts'
import type { Matrix, PanelDtype } from '../../../src/engine/kernel/panels.ts'
import { createKernels } from '../../../src/engine/kernel/pool.ts'
import { uniform } from '../../helpers/linears.ts'

const pools = await Promise.all([1, 2, 4].map(createKernels))
const kernels = pools[1]
afterAll(() => Promise.all(pools.map(pool => pool.close())))
afterEach(() => expect(pools.map(pool => pool.held())).toEqual([0, 0, 0]))

const matrixOf = (weights: Float32Array, out: number, dtype: PanelDtype): Matrix => ({
  name: 'w',
  out,
  in: weights.length / out,
  dtype,
  source: fromFloat32(weights, dtype),
})

/** Values of all rows, put together from the tiles. */
const collected = (out: number, inputs: number) => {
  const whole = {
    original: new Float32Array(out * inputs),
    decoded: new Float32Array(out * inputs),
    delta: new Float32Array(out * inputs),
  }
  const visit = (values: Values, first: number, rows: number): void => {
    for (const name of ['original', 'decoded', 'delta'] as const) {
      expect(values[name]).toHaveLength(rows * inputs)
      whole[name].set(values[name], first * inputs)
    }
  }
  return { whole, visit }
}

const none = new Float32Array(0)

/** Any codes beside any weights, in groups that lie anywhere. */
const randomCase = (out: number, inputs: number, groups: number, bits: Bits, ordered: boolean, seed: number) => {
  const random = uniform(seed)
  const below = (limit: number): number => Math.floor(((random() + 1) / 2) * limit)
  const linear: CodedLinear = {
    decode: 'affine',
    out,
    in: inputs,
    bits,
    codes: Uint8Array.from({ length: out * inputs }, () => below(2 ** bits)),
    scales: Float32Array.from({ length: out * groups }, () => random() * 0.1),
    zeros: Float32Array.from({ length: out * groups }, () => below(2 ** bits)),
    biases: none,
    levels: none,
    groupOf: Int32Array.from({ length: inputs }, (_, i) =>
      ordered ? Math.floor((i * groups) / inputs) : below(groups),
    ),
  }
  return { linear, weights: Float32Array.from({ length: out * inputs }, random) }
}

/** The definitions of docs/report.md, one weight at a time. */
const expectedOf = (original: Float32Array, linear: CodedLinear) => {
  const { out, in: inputs, codes, scales, zeros, groupOf, bits } = linear
  const decoded = dequantize(linear)
  const errors = Array.from(original, (w, i) => (w - decoded[i]) ** 2)
  const isClipped = (w: number, at: number): boolean => {
    const code = codes[at]
    const group = Math.floor(at / inputs) * (scales.length / out) + groupOf[at % inputs]
    const beyond = (w - (code - zeros[group]) * scales[group]) * Math.sign(scales[group])
    const half = Math.abs(scales[group]) / 2
    return (code === 0 && beyond < -half) || (code === 2 ** bits - 1 && beyond > half)
  }
  return {
    decoded,
    energy: original.reduce((sum, w) => sum + w * w, 0),
    errorEnergy: errors.reduce((sum, e) => sum + e, 0),
    largest: Math.max(...errors),
    clipped: Array.from(original).filter(isClipped).length,
  }
}

describe('measureRows', () => {
  it.each(['F32', 'F16', 'BF16'] as const)(
    'sums and decodes by the definitions, any shape and groups, %s',
    async dtype => {
      const shape = fc.record({
        out: fc.integer({ min: 1, max: 9 }),
        inputs: fc.integer({ min: 1, max: 45 }),
        groups: fc.integer({ min: 1, max: 6 }),
        bits: fc.constantFrom<Bits>(2, 3, 4, 8),
        ordered: fc.boolean(),
        seed: fc.integer({ min: 1 }),
      })
      await fc.assert(
        fc.asyncProperty(shape, async ({ out, inputs, groups, bits, ordered, seed }) => {
          const { linear, weights } = randomCase(out, inputs, groups, bits, ordered, seed)
          const original = toFloat32(fromFloat32(weights, dtype), dtype)
          const expected = expectedOf(original, linear)
          const { whole: values, visit } = collected(out, inputs)
          const sums = await measureRows(kernels, matrixOf(weights, out, dtype), linear, visit)
          expect(values.original).toEqual(original)
          expect(values.decoded).toEqual(expected.decoded)
          expect(values.delta).toEqual(original.map((w, i) => w - expected.decoded[i]))
          expect(sums.energy / expected.energy).toBeCloseTo(1, 12)
          expect(sums.errorEnergy / expected.errorEnergy).toBeCloseTo(1, 12)
          expect([sums.largest, sums.clipped]).toEqual([expected.largest, expected.clipped])
          expect(await measureRows(kernels, matrixOf(weights, out, dtype), linear)).toEqual(sums)
        }),
        { numRuns: 200 },
      )
    },
  )

  it('gives the same bits over many chunks on 1, 2 and 4 threads', async () => {
    const [out, inputs] = [700, 576]
    const { linear, weights } = randomCase(out, inputs, 9, 4, true, 7)
    const runs = await Promise.all(
      pools.map(async pool => {
        const { whole, visit } = collected(out, inputs)
        return { values: whole, sums: await measureRows(pool, matrixOf(weights, out, 'BF16'), linear, visit) }
      }),
    )
    expect(runs[1]).toEqual(runs[0])
    expect(runs[2]).toEqual(runs[0])
    expect(runs[0].values.decoded).toEqual(dequantize(linear))
    expect(await measureRows(kernels, matrixOf(weights, out, 'BF16'), linear)).toEqual(runs[0].sums)
  })

  it('sums in float64: 100 000 weights of 1000 with an error of 2^-10', async () => {
    const weights = new Float32Array(100_000).fill(1000 - 2 ** -10)
    const linear: CodedLinear = {
      decode: 'affine',
      out: 1,
      in: weights.length,
      bits: 8,
      codes: new Uint8Array(weights.length).fill(1),
      scales: Float32Array.of(1000),
      zeros: Float32Array.of(0),
      biases: none,
      levels: none,
      groupOf: new Int32Array(weights.length),
    }
    const sums = await measureRows(kernels, matrixOf(weights, 1, 'F32'), linear)
    expect(sums.errorEnergy).toBe(100_000 * 2 ** -20)
    expect(sums.largest).toBe(2 ** -20)
  })

  it('counts weights beyond the outermost level by more than half a step, of outermost codes only', async () => {
    // Row 0 reaches −1 … 2 in steps of 1, row 1 −4 … 2 in steps of 2.
    const codes = [0, 0, 3, 3, 1, /* row 1 */ 0, 0, 3, 3, 2]
    const weights = Float32Array.from([-1.5, -1.51, 2.5, 2.51, 9, /* row 1 */ -5, -5.1, 3, 3.1, -9])
    for (const sign of [1, -1]) {
      const linear: CodedLinear = {
        decode: 'affine',
        out: 2,
        in: 5,
        bits: 2,
        codes: Uint8Array.from(codes),
        scales: Float32Array.of(sign, 2 * sign),
        zeros: Float32Array.of(1, 2),
        biases: none,
        levels: none,
        groupOf: new Int32Array(5),
      }
      const matrix = matrixOf(
        weights.map(w => w * sign),
        2,
        'F32',
      )
      expect((await measureRows(kernels, matrix, linear)).clipped).toBe(4)
    }
  })
})
