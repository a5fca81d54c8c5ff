import { afterAll, describe, expect, it } from 'vitest'
import { createGram } from '../../../src/engine/ort/gram.ts'
import { createEngine } from '../../../src/engine/ort/session.ts'
import { uniform } from '../../helpers/linears.ts'

const engines = await Promise.all([1, 2, 7].map(createEngine))
const engine = engines[1]
afterAll(async () => {
  for (const each of engines) await each.release()
})

/** A correlated walk: channels of very different size, with a mean, as activations have. */
const walkChunks = (n: number, sizes: readonly number[], seed: number): Float32Array[] => {
  const random = uniform(seed)
  const state = new Float64Array(n)
  return sizes.map(rows => {
    const chunk = new Float32Array(n * rows)
    for (let token = 0; token < rows; token++) {
      let shared = random()
      for (let channel = 0; channel < n; channel++) {
        shared = 0.5 * shared + random()
        state[channel] = 0.9 * state[channel] + shared + 0.05
        chunk[channel * rows + token] = state[channel] * (channel % 7 === 3 ? 30 : 1)
      }
    }
    return chunk
  })
}

const exactGram = (n: number, sizes: readonly number[], chunks: readonly Float32Array[]): Float64Array => {
  const sum = new Float64Array(n * n)
  const count = sizes.reduce((a, b) => a + b, 0)
  for (const [index, rows] of sizes.entries())
    for (let i = 0; i < n; i++)
      for (let j = 0; j <= i; j++) {
        let dot = 0
        for (let t = 0; t < rows; t++) dot += chunks[index][i * rows + t] * chunks[index][j * rows + t]
        sum[i * n + j] += dot / count
      }
  for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) sum[j * n + i] = sum[i * n + j]
  return sum
}

const frobenius = (values: ArrayLike<number>): number => {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i] * values[i]
  return Math.sqrt(sum)
}
const relativeError = (got: Float32Array, want: Float64Array): number =>
  frobenius(want.map((value, i) => got[i] - value)) / frobenius(want)

const accumulateAll = async (
  on: typeof engine,
  n: number,
  sizes: readonly number[],
  chunks: readonly Float32Array[],
) => {
  const gram = createGram(on, n)
  for (const [index, rows] of sizes.entries()) await gram.add(chunks[index], rows)
  return gram.finish()
}

describe('createGram', () => {
  it('stays within 1e-6 of float64 over 100000 tokens in uneven chunks', async () => {
    const sizes = Array.from({ length: 100 }, (_, i) => 1 + ((i * 797) % 1999))
    const n = 40
    const chunks = walkChunks(n, sizes, 11)
    const { gram, count } = await accumulateAll(engine, n, sizes, chunks)
    expect(count).toBe(sizes.reduce((a, b) => a + b, 0))
    expect(count).toBeGreaterThan(90_000)
    expect(relativeError(gram, exactGram(n, sizes, chunks))).toBeLessThan(1e-6)
  })

  it('stays within 1e-5 on constant channels over 300000 tokens, where every rounding goes the same way', async () => {
    const n = 24
    const rows = 2000
    const chunk = Float32Array.from({ length: n * rows }, (_, i) => 0.73 + 0.0171 * Math.floor(i / rows))
    const gram = createGram(engine, n)
    for (let i = 0; i < 150; i++) await gram.add(chunk, rows)
    const { gram: got } = gram.finish()
    const worst = Math.max(
      ...Array.from(got, (value, i) => {
        const exact = chunk[Math.floor(i / n) * rows] * chunk[(i % n) * rows]
        return Math.abs(value - exact) / exact
      }),
    )
    expect(worst).toBeLessThan(1e-5)
  })

  it.each([1, 2, 17, 192, 193, 400])('fills the whole symmetric matrix, n = %i, across tiles', async n => {
    const sizes = [37, 1, 300, 2]
    const chunks = walkChunks(n, sizes, n)
    const { gram } = await accumulateAll(engine, n, sizes, chunks)
    expect(relativeError(gram, exactGram(n, sizes, chunks))).toBeLessThan(1e-6)
    for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) if (gram[i * n + j] !== gram[j * n + i]) expect.fail()
  })

  it.each([
    [1, 5000],
    [5, 30000],
    [3, 30000],
    [40, 700],
    [130, 2048],
    [193, 300],
    [400, 2048],
  ])('gives the same bits for 1, 2 and 7 threads, n = %i, chunks of %i', async (n, rows) => {
    const sizes = [rows, 1, rows - 1]
    const chunks = walkChunks(n, sizes, 5)
    const results = []
    for (const each of engines) results.push((await accumulateAll(each, n, sizes, chunks)).gram)
    expect(Buffer.compare(Buffer.from(results[0].buffer), Buffer.from(results[1].buffer))).toBe(0)
    expect(Buffer.compare(Buffer.from(results[0].buffer), Buffer.from(results[2].buffer))).toBe(0)
  })

  it('reads a chunk from the start of a larger buffer', async () => {
    const n = 3
    const gram = createGram(engine, n)
    const buffer = Float32Array.from({ length: 100 }, (_, i) => i)
    await gram.add(buffer.subarray(10), 2)
    expect(gram.finish().gram[1]).toBe((10 * 12 + 11 * 13) / 2)
  })

  it('gives zeros for no tokens', async () => {
    const gram = createGram(engine, 2)
    await gram.add(new Float32Array(0), 0)
    expect(gram.finish()).toEqual({ count: 0, gram: new Float32Array(4) })
  })
})
