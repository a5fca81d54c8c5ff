import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { ActivationScheme, LevelGrid } from '../../../src/contracts.ts'
import { quantizedRows } from '../../../src/engine/ort/quantized-activations.ts'
import { createEngine, type Engine } from '../../../src/engine/ort/session.ts'
import { levelGrids } from '../../../src/quantize/grid/index.ts'

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

/** The value that weights of this grid would have: the nearest, ties to the even code. */
const nearest = ({ borders, values }: LevelGrid, y: number): number =>
  values[borders.filter(border => border < y).length]

const bits = new Uint32Array(1)
const float = new Float32Array(bits.buffer)
/** 2^floor(log2 x), one more where the mantissa is 1.75 or above: by the bits of x. */
const powerOf = (x: number): number => {
  float[0] = x
  bits[0] = (bits[0] + 0x200000) & 0x7f800000
  return float[0]
}

/** Few rows of 32 or 64 features over 60 binary orders of magnitude, with zeros and whole groups of them. */
const wide = fc
  .record({ rows: fc.integer({ min: 1, max: 4 }), width: fc.constantFrom(32, 64) })
  .chain(({ rows, width }) => {
    const exponents = fc.array(fc.integer({ min: -30, max: 30 }), { minLength: rows * 4, maxLength: rows * 4 })
    const mantissas = fc.array(
      fc.oneof(fc.constantFrom(0, 1, 1.25, -1.75, 1.5), fc.double({ min: -2, max: 2, noNaN: true })),
      {
        minLength: rows * width,
        maxLength: rows * width,
      },
    )
    return fc.record({ exponents, mantissas }).map(parts => ({
      width,
      x: Float32Array.from(parts.mantissas, (mantissa, i) => mantissa * 2 ** parts.exponents[i >> 4]),
    }))
  })

/** −0 counts as 0. */
const plain = (x: Iterable<number>): number[] => Array.from(x, value => value + 0)

const dynamic = { symmetric: true, dynamic: true } as const

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

  it.each([
    ['mxfp4', 4],
    ['mxfp8', 256],
  ] as const)('%s: powers of two over groups of 32', (grid, reach) =>
    fc.assert(
      fc.asyncProperty(wide, async ({ x, width }) => {
        const expected = rowsOf(x, 32).flatMap(group => {
          const scale = absmax(group) === 0 ? 1 : powerOf(absmax(group)) / reach
          return [...group].map(value => nearest(levelGrids[grid], f(value / scale)) * scale)
        })
        const actual = await run(x, width, { grid, ...dynamic, granularity: 32 })
        expect(plain(actual)).toEqual(plain(expected))
      }),
      { numRuns: 60 },
    ),
  )

  /** E2M1 over 16 under E4M3 under one divisor. */
  const nvfp4 = (x: Float32Array, divisor: number): number[] =>
    rowsOf(x, 16).flatMap(group => {
      const stored = e4m3(f(divisor * f(absmax(group) / 6))) || 0.125
      const scale = f(stored / divisor)
      return [...group].map(value => f(nearest(levelGrids.nvfp4, f(value / scale)) * scale))
    })

  it('nvfp4: E4M3 scales over 16, under one divisor for each sequence', () =>
    fc.assert(
      fc.asyncProperty(wide, fc.boolean(), async ({ x, width }, whole) => {
        const seqLen = whole ? x.length / width : 1
        const expected = rowsOf(x, seqLen * width).flatMap(sequence =>
          nvfp4(sequence, f((448 * 6) / Math.max(absmax(sequence), 2 ** -126))),
        )
        const actual = await run(x, width, { grid: 'nvfp4', ...dynamic, granularity: 16 }, seqLen)
        expect(plain(actual)).toEqual(plain(expected))
      }),
      { numRuns: 60 },
    ))

  it('nvfp4 under a stored divisor', async () => {
    const x = Float32Array.from({ length: 32 }, (_, i) => Math.sin(i) * (i < 16 ? 1 : 9))
    const scheme = { grid: 'nvfp4', ...dynamic, granularity: 16 } as const
    const [stored, own] = [await run(x, 32, { ...scheme, globalScale: 100 }), await run(x, 32, scheme)]
    expect(plain(stored)).toEqual(plain(nvfp4(x, 100)))
    expect(plain(stored)).not.toEqual(plain(own))
  })

  it('int4 by group: absmax / 7.5, codes −8 … 7', () =>
    fc.assert(
      fc.asyncProperty(matrices, async ({ x, width }) => {
        const expected = rowsOf(x, 8).flatMap(part => {
          const scale = Math.max(f(absmax(part) / 7.5), 2 ** -23)
          return [...part].map(value => f(clamp(roundHalfEven(f(value / scale)), -8, 7) * scale))
        })
        const actual = await run(x, width, { grid: 'int4', ...dynamic, granularity: 8 })
        expect(plain(actual)).toEqual(plain(expected))
      }),
      { numRuns: 40 },
    ))

  it.each([
    ['int4', 15],
    ['int8', 255],
  ] as const)(
    'asymmetric %s by tensor: one step for a sequence, 0 kept, nothing off by more than a step',
    (grid, steps) =>
      fc.assert(
        fc.asyncProperty(matrices, async ({ x, width }) => {
          const scheme = { grid, symmetric: false, dynamic: true, granularity: 'tensor' } as const
          const actual = await run(x, width, scheme, x.length / width)
          const step = (Math.max(0, ...x) - Math.min(0, ...x)) / steps
          for (const [i, value] of x.entries()) {
            // the zero point is rounded, too: at the ends up to a whole step is lost
            expect(Math.abs(actual[i] - value)).toBeLessThanOrEqual(1.001 * step)
            if (value === 0) expect(actual[i] + 0).toBe(0)
            if (step > 0) expect(Math.abs(actual[i] / step - Math.round(actual[i] / step))).toBeLessThan(0.001)
          }
        }),
        { numRuns: 40 },
      ),
  )

  it('by tensor: sequences do not share a scale, their tokens do', async () => {
    const x = Float32Array.of(1, 0.3, /**/ 8, 0.3, /* second sequence */ 1, 0.3, /**/ 0.5, 0.25)
    const scheme = { grid: 'int8', ...dynamic, granularity: 'tensor' } as const
    const expected = rowsOf(x, 4).flatMap(sequence => [...integers(sequence, 127.5, -128)])
    expect([...(await run(x, 2, scheme, 2))]).toEqual(expected)
  })

  it('the outlier split around any scheme: outlier features stay and widen no range', async () => {
    const width = 4
    const x = Float32Array.of(1, 60, 0.25, -0.5, /**/ 0.5, 0.1, 0.125, 0.75)
    const rest = Float32Array.of(1, 0, 0.25, -0.5, /**/ 0.5, 0, 0.125, 0.75)
    const schemes: readonly ActivationScheme[] = [
      { grid: 'int8', ...dynamic, granularity: 'tensor' },
      { grid: 'int8', symmetric: false, dynamic: true, granularity: 'token' },
      { grid: 'int4', symmetric: false, dynamic: true, granularity: 'tensor' },
      { grid: 'fp8', ...dynamic, granularity: 2 },
    ]
    for (const scheme of schemes) {
      const expected = await run(rest, width, scheme, 2)
      for (const at of [1, 5]) expected[at] = x[at]
      expect([...(await run(x, width, { ...scheme, outliers: 6 }, 2))]).toEqual([...expected])
      expect([...(await run(x, width, { ...scheme, outliers: 61 }, 2))]).toEqual([...(await run(x, width, scheme, 2))])
    }
  })
})
