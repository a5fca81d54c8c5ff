/** The kernels round up to four blocks or sub-blocks side by side: none may see another. And bytes of ggml_quantize_chunk for rows that overflow inside. */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createKernels, type Kernels } from '../../src/engine/kernel/pool.ts'
import { roundBlocks } from '../../src/engine/kernel/round-blocks.ts'
import { ggmlTypes, type RoundedType, roundedTypes } from '../../src/gguf/types.ts'

let kernels: Kernels
beforeAll(async () => {
  kernels = await createKernels(1)
})
afterAll(() => kernels.close())

/** One row. */
const round = (type: RoundedType, values: Float32Array, importances?: Float32Array): Promise<Uint8Array> =>
  roundBlocks(
    kernels,
    { name: 'w', out: 1, in: values.length, dtype: 'F32', source: new Uint8Array(values.slice().buffer) },
    type,
    importances,
  )

/** Magnitudes from subnormal to large, ties, zeros of both signs: 32 weights. */
const run = fc
  .tuple(
    fc.constantFrom(2 ** -140, 2 ** -50, 2 ** -8, 1, 2 ** 12),
    fc.array(fc.oneof(fc.integer({ min: -64, max: 64 }), fc.double({ min: -64, max: 64, noNaN: true })), {
      minLength: 32,
      maxLength: 32,
    }),
  )
  .map(([scale, values]) => values.map(value => value * scale))

const importance = fc.oneof(fc.constant(0), fc.double({ min: 1e-6, max: 100, noNaN: true }))

/** Blocks of a row, and as many importances. */
const blocksOf = (type: RoundedType, most: number) => {
  const { block } = ggmlTypes[type]
  const values = fc.array(run, { minLength: block / 32, maxLength: block / 32 }).map(runs => runs.flat())
  const weights = fc.array(importance, { minLength: block, maxLength: block })
  return fc.array(fc.tuple(values, weights), { minLength: 1, maxLength: most })
}

/** Those of 32 weights whose importances count by the mean square of the whole row. */
const rowWise: readonly RoundedType[] = ['Q4_0', 'Q4_1', 'Q5_0', 'Q5_1']

const row = (parts: readonly (readonly number[])[]) => Float32Array.from(parts.flat())

describe('blocks side by side', () => {
  it.each(roundedTypes)('%s: are those that each gives alone', async type => {
    const { block, bytes } = ggmlTypes[type]
    await fc.assert(
      fc.asyncProperty(blocksOf(type, block === 32 ? 9 : 3), fc.boolean(), async (blocks, weighted) => {
        const given = weighted && !rowWise.includes(type)
        const parts = blocks.map(async ([values, weights]) =>
          round(type, row([values]), given ? row([weights]) : undefined),
        )
        const alone = await Promise.all(parts)
        const values = row(blocks.map(([values]) => values))
        const together = await round(type, values, given ? row(blocks.map(([, weights]) => weights)) : undefined)
        expect(together.length).toBe(blocks.length * bytes)
        expect(together).toEqual(new Uint8Array(Buffer.concat(alone)))
      }),
      { numRuns: 60 },
    )
  })

  it.each(rowWise)('%s with importances: do not depend on their place', async type => {
    const { bytes } = ggmlTypes[type]
    await fc.assert(
      fc.asyncProperty(
        blocksOf(type, 1),
        fc.nat(8),
        fc.integer({ min: 1, max: 8 }),
        async ([[values, weights]], at, more) => {
          // zeros add nothing to the sum of squares, wherever they stand
          const zeros = new Array(32).fill(0)
          const place = (part: readonly number[], filler: readonly number[], at: number) =>
            row(Array.from({ length: 8 + more }, (_, i) => (i === at ? part : filler)))
          const first = await round(type, place(values, zeros, 0), place(weights, weights, 0))
          const moved = await round(type, place(values, zeros, Math.min(at, 7 + more)), place(weights, weights, 0))
          const start = Math.min(at, 7 + more) * bytes
          expect(moved.subarray(start, start + bytes)).toEqual(first.subarray(0, bytes))
        },
      ),
      { numRuns: 60 },
    )
  })
})

it.each(['Q4_1', 'Q5_0', 'Q8_0', 'IQ4_NL', 'MXFP4'] as const)(
  '%s: writes whole rows and nothing behind them',
  async type => {
    const { id, block, bytes } = ggmlTypes[type]
    const inputs = 160
    const regions = [4 * inputs, 4 * inputs, 8192, 5 * bytes + 128].map(size => kernels.allocate(size))
    const [source, importances, scratch, blocks] = regions
    source.f32().set(Float32Array.from({ length: inputs }, (_, i) => Math.sin(i)))
    importances.f32().fill(1)
    blocks.u8().fill(0x5a)
    const places = [source.address, 1, inputs, importances.address, scratch.address, blocks.address] as const
    await kernels.run([['roundRows', id, block, bytes, 2, ...places]])
    expect([...new Set(blocks.u8().subarray(5 * bytes))]).toEqual([0x5a])
    for (const region of regions) region.free()
  },
)

/** Bytes of ggml (llama-cpp-python 0.3.36, x86-64) where the inverse of the scale is infinite, or a logarithm rounds up. */
describe('at the edges of float32', () => {
  const tiny = Float32Array.from({ length: 256 }, (_, i) => (i % 2 ? -1 : 1) * ((i % 32) + 1) * 2 ** -135)
  const eights = (bytes: number, head: readonly number[]) =>
    Uint8Array.from({ length: bytes }, (_, i) => head[i] ?? 0x88)
  const zeros = (bytes: number, head: readonly number[] = []) =>
    Uint8Array.from({ length: bytes }, (_, i) => head[i] ?? 0)
  const expected: Partial<Record<RoundedType, (bytes: number) => Uint8Array>> = {
    Q4_1: bytes => zeros(bytes, [0, 0, 0, 0x80]),
    Q5_1: bytes => zeros(bytes, [0, 0, 0, 0x80]),
    IQ4_NL: bytes => eights(bytes, [0, 0]),
    IQ4_XS: bytes => eights(bytes, [0, 0x80, 0xaa, 0xaa, 0, 0, 0, 0]),
    MXFP4: bytes => zeros(bytes, [251]),
  }

  it.each(roundedTypes.flatMap(type => [[type, undefined] as const, [type, new Float32Array(256).fill(1)] as const]))(
    '%s: weights below 2^-129',
    async (type, importances) => {
      const { block, bytes } = ggmlTypes[type]
      const blocks = await round(type, tiny, importances)
      const one = (expected[type] ?? zeros)(bytes)
      for (let i = 0; i < 256 / block; i++) expect(blocks.subarray(i * bytes, (i + 1) * bytes)).toEqual(one)
    },
  )

  it.each([
    [-8, 5, [117, 6]],
    [-8, 6, [116, 7]],
    [10, 5, [135, 6]],
    [10, 6, [134, 7]],
    [0, 1, [124, 7]],
    [-64, 44, [61, 6]],
    [-64, 45, [60, 7]],
  ])('MXFP4: the largest 2^%i less %i · 2^-24 of it', async (power, steps, first) => {
    const values = new Float32Array(32)
    values[0] = 2 ** power * (1 - steps * 2 ** -24)
    expect([...(await round('MXFP4', values))]).toEqual([...first, ...new Array(15).fill(0)])
  })

  it('gives IQ4_NL blocks that count nothing a scale of 0', async () => {
    const values = Float32Array.from({ length: 32 }, (_, i) => i - 11.5)
    expect(await round('IQ4_NL', values, new Float32Array(32))).toEqual(eights(18, [0, 0]))
  })
})
