import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { ActivationScheme } from '../../../src/contracts.ts'
import { quantizedRows } from '../../../src/engine/ort/quantized-activations.ts'
import { createEngine, type Engine } from '../../../src/engine/ort/session.ts'

let engine: Engine
beforeAll(async () => {
  engine = await createEngine(1)
})
afterAll(() => engine.release())

const run = (x: Float32Array, width: number, scheme: ActivationScheme, seqLen = 1): Promise<Float32Array> =>
  quantizedRows(engine, x, width, scheme, seqLen)

const f = Math.fround
const roundHalfEven = (x: number): number => {
  const floor = Math.floor(x)
  if (x - floor !== 0.5) return Math.round(x)
  return floor % 2 === 0 ? floor : floor + 1
}
const clamp = (x: number, low: number, high: number): number => Math.min(high, Math.max(low, x))
const rowsOf = (x: Float32Array, width: number): Float32Array[] =>
  Array.from({ length: x.length / width }, (_, row) => x.subarray(row * width, (row + 1) * width))
const absmax = (x: Iterable<number>): number => {
  let most = 0
  for (const value of x) most = Math.max(most, Math.abs(value))
  return most
}

const integers = (x: Float32Array, half: number, low: number): Float32Array => {
  const scale = Math.max(f(absmax(x) / half), 2 ** -23)
  return x.map(value => clamp(roundHalfEven(f(value / scale)), low, 127) * scale)
}

/** Nearest E4M3 value, half to even: steps of 2^(e − 3), not below 2^-9. */
const e4m3 = (x: number): number => {
  const magnitude = Math.min(448, Math.abs(x))
  const exponent = Math.max(-6, Math.floor(Math.log2(magnitude || 1)))
  const step = 2 ** (exponent - 3)
  return Math.sign(x) * Math.min(448, roundHalfEven(magnitude / step) * step)
}

const matrices = fc
  .record({ rows: fc.integer({ min: 1, max: 5 }), width: fc.constantFrom(8, 16, 24) })
  .chain(({ rows, width }) =>
    fc.record({
      width: fc.constant(width),
      x: fc
        .array(fc.float({ noNaN: true, min: -10, max: 10 }), { minLength: rows * width, maxLength: rows * width })
        .map(values => Float32Array.from(values, value => (Math.abs(value) < 1e-3 ? 0 : value))),
    }),
  )

const token = { symmetric: true, granularity: 'token', dynamic: true } as const

describe('activations as a runtime quantizes them', () => {
  it('int8 by token: absmax / 127.5, codes −128 … 127', () =>
    fc.assert(
      fc.asyncProperty(matrices, async ({ x, width }) => {
        const expected = rowsOf(x, width).flatMap(row => [...integers(row, 127.5, -128)])
        expect([...(await run(x, width, { grid: 'int8', ...token }))].map(value => value + 0)).toEqual(
          expected.map(value => value + 0),
        )
      }),
      { numRuns: 40 },
    ))

  it('fp8 by token and by group: absmax / 448', () =>
    fc.assert(
      fc.asyncProperty(matrices, fc.constantFrom('token', 8), async ({ x, width }, granularity) => {
        const parts = rowsOf(x, granularity === 'token' ? width : 8)
        const expected = parts.flatMap(part => {
          const scale = Math.max(f(absmax(part) / 448), 2 ** -23)
          return [...part.map(value => e4m3(f(value / scale)) * scale)]
        })
        const actual = await run(x, width, { grid: 'fp8', ...token, granularity: granularity as 'token' | number })
        expect([...actual].map(value => value + 0)).toEqual(expected.map(value => value + 0))
      }),
      { numRuns: 40 },
    ))

  it('asymmetric int8 reaches both ends of each token, and keeps zero', async () => {
    const x = Float32Array.of(-1, 0, 3, 1, /**/ 2, 4, 0, 8)
    const y = await run(x, 4, { grid: 'int8', ...token, symmetric: false })
    for (const [i, value] of x.entries()) expect(Math.abs(y[i] - value)).toBeLessThan(i < 4 ? 4 / 255 : 8 / 255)
    expect([y[1], y[6]]).toEqual([0, 0])
    expect([...y]).not.toEqual([...x])
  })

  it('static: one stored scale and zero point; what lies beyond is clamped', async () => {
    const scheme = {
      grid: 'int8',
      symmetric: false,
      granularity: 'tensor',
      dynamic: false,
      scale: 0.5,
      zero: 28,
    } as const
    expect([...(await run(Float32Array.of(1.2, -0.3, 100, -100), 2, scheme))]).toEqual([1, -0.5, 49.5, -78])
  })

  it('LLM.int8(): features with an outlier in any token of their sequence stay; scales are those of the values below it', async () => {
    const width = 3
    const x = Float32Array.of(1, 6, 0.25, /**/ 0.5, 4, 0.125, /* second sequence */ 1, 2, 0.25, /**/ 0.5, 0.125, 5.5)
    const y = await run(x, width, { grid: 'int8', ...token, outliers: 6 }, 2)
    const scaled = (absmax: number, value: number): number =>
      f(roundHalfEven(f(value * f(127 / absmax))) * f(absmax / 127))
    const first = [scaled(1, 1), 6, scaled(1, 0.25), scaled(4, 0.5), 4, scaled(4, 0.125)]
    const second = [...[1, 2, 0.25].map(v => scaled(2, v)), ...[0.5, 0.125, 5.5].map(v => scaled(5.5, v))]
    expect([...y]).toEqual([...first, ...second])
    const none = await run(x, width, { grid: 'int8', ...token, outliers: 0 }, 2)
    expect(none[1]).toBe(scaled(6, 6))
  })
})
