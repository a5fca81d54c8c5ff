import { afterAll, describe, expect, it } from 'vitest'
import {
  deadChannels,
  type FactorizeOptions,
  factorize as factorizeReversed,
} from '../../../src/engine/ort/cholesky.ts'
import { createEngine, type Engine } from '../../../src/engine/ort/session.ts'
import { uniform, upperOf } from '../../helpers/linears.ts'

const engines = await Promise.all([1, 2, 5].map(createEngine))
const engine = engines[1]
afterAll(async () => {
  for (const each of engines) await each.release()
})

/** With U as a dense matrix. */
const factorize = async (on: Engine, gram: Float32Array, options: FactorizeOptions) => {
  const result = await factorizeReversed(on, gram, options)
  return result && { U: upperOf(result.reversedU), damp: result.damp, zero: result.zero }
}

/** Mean of x xᵀ over `tokens` correlated random tokens. */
const randomGram = (n: number, tokens: number, seed: number): Float32Array => {
  const random = uniform(seed)
  const x = Float64Array.from({ length: n * tokens }, random)
  for (let i = tokens; i < x.length; i++) x[i] += 0.4 * x[i - tokens]
  const gram = new Float32Array(n * n)
  for (let i = 0; i < n; i++)
    for (let j = 0; j <= i; j++) {
      let dot = 0
      for (let t = 0; t < tokens; t++) dot += x[i * tokens + t] * x[j * tokens + t]
      gram[i * n + j] = gram[j * n + i] = dot / tokens
    }
  return gram
}

const damped = (gram: Float32Array, n: number, damp: number, order?: Int32Array): Float64Array => {
  let mean = 0
  for (let i = 0; i < n; i++) mean += gram[i * n + i] / n
  const column = (i: number) => (order ? order[i] : i)
  return Float64Array.from(
    gram,
    (_, at) =>
      gram[column(Math.floor(at / n)) * n + column(at % n)] + (Math.floor(at / n) === at % n ? damp * mean : 0),
  )
}

/** max |U·H·Uᵀ − I| in float64, U upper triangular. */
const residual = (U: Float32Array, H: Float64Array, n: number): number => {
  let worst = 0
  const product = new Float64Array(n)
  for (let i = 0; i < n; i++) {
    product.fill(0)
    for (let k = i; k < n; k++) for (let j = 0; j < n; j++) product[j] += U[i * n + k] * H[k * n + j]
    for (let j = 0; j < n; j++) {
      let sum = i === j ? -1 : 0
      for (let k = j; k < n; k++) sum += product[k] * U[j * n + k]
      worst = Math.max(worst, Math.abs(sum))
    }
  }
  return worst
}

const isUpper = (U: Float32Array, n: number): boolean =>
  U.every((value, at) => at % n >= Math.floor(at / n) || Object.is(value, 0))

const shuffled = (n: number, seed: number): Int32Array => {
  const random = uniform(seed)
  const keys = Array.from({ length: n }, random)
  return Int32Array.from(keys.keys()).sort((a, b) => keys[a] - keys[b])
}

const scaledIdentity = (n: number, c: number): Float32Array =>
  Float32Array.from({ length: n * n }, (_, at) => (at % (n + 1) === 0 ? c : 0))

describe('factorize', () => {
  it.each([1, 2, 5, 64, 65, 193, 200, 400, 577])('U·H·Uᵀ = I and U is upper triangular, n = %i', async n => {
    const gram = randomGram(n, 2 * n + 3, n)
    const kept = gram.slice()
    const result = await factorize(engine, gram, { damp: 0.01 })
    expect(result?.damp).toBe(0.01)
    expect(result?.zero).toBe(false)
    expect(isUpper(result!.U, n)).toBe(true)
    expect(residual(result!.U, damped(gram, n, 0.01), n)).toBeLessThan(1e-5)
    expect(gram).toEqual(kept)
  })

  it.each([2, 70, 250])('factors the permuted matrix, n = %i', async n => {
    const gram = randomGram(n, 2 * n, 3)
    const order = shuffled(n, 17)
    const result = await factorize(engine, gram, { damp: 0.02, order })
    expect(isUpper(result!.U, n)).toBe(true)
    expect(residual(result!.U, damped(gram, n, 0.02, order), n)).toBeLessThan(1e-5)
  })

  it.each([0, 1e-9])('raises damping %d on a singular matrix and says so', async damp => {
    const n = 200
    const gram = randomGram(n, 20, 5)
    const result = await factorize(engine, gram, { damp })
    expect(result!.damp).toBeGreaterThan(damp)
    expect(result!.damp).toBe(1e-4)
    expect(residual(result!.U, damped(gram, n, 1e-4), n)).toBeLessThan(0.02)
  })

  it('doubles the damping until it factors, at most to 1', async () => {
    // eigenvalues 1 − 1.3 and 1 + 1.3: damping above 0.3 is enough
    const gram = Float32Array.of(1, 1.3, 1.3, 1)
    const result = await factorize(engine, gram, { damp: 0.1 })
    expect(result?.damp).toBe(0.4)
    expect((await factorize(engine, Float32Array.of(1, 1.9, 1.9, 1), { damp: 0.7 }))?.damp).toBe(1)
  })

  it.each([
    ['NaN on the diagonal', 3, 3, Number.NaN],
    ['NaN off the diagonal', 7, 90, Number.NaN],
    ['infinity', 20, 20, Number.POSITIVE_INFINITY],
    ['no Gram matrix', 5, 6, 50],
    ['a negative diagonal', 5, 5, -1e6],
  ])('is undefined for %s', async (_, row, column, value) => {
    const n = 100
    const gram = randomGram(n, 200, 9)
    gram[row * n + column] = gram[column * n + row] = value
    expect(await factorize(engine, gram, { damp: 0.01 })).toBeUndefined()
  })

  it.each([1, 3, 65, 200, 577])('is exactly diagonal and constant for c·I, n = %i', async n => {
    for (const c of [1, 0.37, 1e-12, 1e9]) {
      const { U } = (await factorize(engine, scaledIdentity(n, c), { damp: 0.01, order: shuffled(n, 3) }))!
      expect(U.every((value, at) => Object.is(value, at % (n + 1) === 0 ? U[0] : 0))).toBe(true)
      expect(U[0] * Math.sqrt(1.01 * c)).toBeCloseTo(1, 6)
    }
  })

  it('scales exactly with the matrix', async () => {
    const n = 210
    const gram = randomGram(n, 300, 4)
    const { U } = (await factorize(engine, gram, { damp: 0.01 }))!
    const scaled = (await factorize(
      engine,
      gram.map(value => 4 * value),
      { damp: 0.01 },
    ))!
    expect(scaled.U.map(value => 2 * value)).toEqual(U)
  })

  it('keeps dead channels apart', async () => {
    const n = 100
    const gram = randomGram(n, 200, 6)
    const dead = [0, 41, 99]
    for (const channel of dead) for (let i = 0; i < n; i++) gram[channel * n + i] = gram[i * n + channel] = 0
    expect(deadChannels(gram, n)).toBe(3)
    const { U } = (await factorize(engine, gram, { damp: 0.01 }))!
    expect(residual(U, damped(gram, n, 0.01), n)).toBeLessThan(1e-5)
    for (const channel of dead)
      for (let i = 0; i < n; i++) {
        if (i === channel) expect(U[i * n + i]).toBeGreaterThan(0)
        else expect([U[channel * n + i], U[i * n + channel]]).toEqual([0, 0])
      }
    expect(U.every(Number.isFinite)).toBe(true)
  })

  it('takes H = I for a matrix of zeros', async () => {
    const result = await factorize(engine, new Float32Array(9), { damp: 0.01 })
    expect(result).toEqual({ U: scaledIdentity(3, 1), damp: 0.01, zero: true })
    expect(deadChannels(new Float32Array(9), 3)).toBe(3)
  })

  it.each([65, 130, 193, 400, 577])('gives the same bits for 1, 2 and 5 threads, n = %i', async n => {
    const gram = randomGram(n, 100, 8)
    const results = []
    for (const each of engines) results.push((await factorize(each, gram, { damp: 0.01 }))!.U)
    expect(Buffer.compare(Buffer.from(results[0].buffer), Buffer.from(results[1].buffer))).toBe(0)
    expect(Buffer.compare(Buffer.from(results[0].buffer), Buffer.from(results[2].buffer))).toBe(0)
  })
})
