import { afterAll, describe, expect, it } from 'vitest'
import { outputError } from '../../../src/engine/ort/output-error.ts'
import { createEngine } from '../../../src/engine/ort/session.ts'

const engines = await Promise.all([1, 2, 5].map(createEngine))
const engine = engines[1]
afterAll(async () => {
  for (const each of engines) await each.release()
})

const values = (length: number, seed: number): Float32Array => {
  let state = seed
  return Float32Array.from({ length }, () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32 - 0.5
  })
}

/** X·Xᵀ / tokens of features × tokens, so that the error is also ‖ΔW·X‖² / tokens. */
const gramOf = (x: Float32Array, n: number, tokens: number): Float32Array =>
  Float32Array.from({ length: n * n }, (_, at) => {
    let dot = 0
    for (let t = 0; t < tokens; t++) dot += x[Math.floor(at / n) * tokens + t] * x[(at % n) * tokens + t]
    return dot / tokens
  })

const outputsPower = (w: Float32Array, x: Float32Array, n: number, tokens: number): number => {
  let sum = 0
  for (let row = 0; row < w.length / n; row++)
    for (let t = 0; t < tokens; t++) {
      let y = 0
      for (let i = 0; i < n; i++) y += w[row * n + i] * x[i * tokens + t]
      sum += y * y
    }
  return sum / tokens
}

describe('outputError', () => {
  it.each([
    [1, 1],
    [1, 40],
    [7, 1],
    [3, 5],
    [513, 33],
    [700, 140],
    [600, 600],
  ])('is the mean squared change of the outputs, out = %i, in = %i', async (out, n) => {
    const tokens = 30
    const x = values(n * tokens, 1)
    const [delta, weight] = [values(out * n, 2), values(out * n, 3)]
    const { error, energy } = await outputError(engine, delta, weight, gramOf(x, n, tokens))
    expect(error / outputsPower(delta, x, n, tokens)).toBeCloseTo(1, 5)
    expect(energy / outputsPower(weight, x, n, tokens)).toBeCloseTo(1, 5)
  })

  it('is zero for no change', async () => {
    const { error, energy } = await outputError(engine, new Float32Array(6), values(6, 4), Float32Array.of(2, 1, 1, 2))
    expect(error).toBe(0)
    expect(energy).toBeGreaterThan(0)
  })

  it('gives the same numbers for 1, 2 and 5 threads', async () => {
    for (const [out, n] of [
      [700, 130],
      [100, 577],
      [33, 200],
    ]) {
      const gram = gramOf(values(n * 9, 5), n, 9)
      const results = []
      for (const each of engines) results.push(await outputError(each, values(out * n, 6), values(out * n, 7), gram))
      expect(results[1]).toEqual(results[0])
      expect(results[2]).toEqual(results[0])
    }
  })
})
