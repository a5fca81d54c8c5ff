import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { CodedLinear, Group, LinearScheme, Storage } from '../../src/contracts.ts'
import { dequantize } from '../../src/dequantize.ts'
import { createKernels } from '../../src/engine/kernel/pool.ts'
import { createEngine } from '../../src/engine/ort/session.ts'
import { actOrder as byActivity } from '../../src/quantize/act-order.ts'
import { feedbackRounding, plainRounding, type Rounded, type StageRounding } from '../../src/quantize/stage-rounding.ts'
import { type Recipe, type RecipeRequest, resolveRecipe } from '../../src/recipe.ts'
import { codedOf } from '../format/linears.ts'
import { f16Storage, permuted, randomGram, randomWeights, shuffled, tensorOf } from '../helpers/linears.ts'

const engine = await createEngine(2)
const kernels = await createKernels(2)
afterAll(async () => {
  await engine.release()
  await kernels.close()
})

let held = 0
beforeEach(() => {
  held = kernels.held()
})
afterEach(() => expect(kernels.held(), 'shared memory held').toBe(held))

const out = 20
const orders = ['none', 'static', 'g_idx'] as const
const f32Storage: Storage = { ...f16Storage, scaleDtype: 'F32' }

interface Case extends RecipeRequest {
  readonly storage?: Storage
  readonly tokens?: number
}

const schemeOf = (out: number, inputs: number, recipe: Recipe): LinearScheme => {
  const { bits, symmetric, actOrder } = recipe
  const group = recipe.group as Group
  const groups = typeof group === 'number' ? inputs / group : 1
  return {
    name: 'w',
    role: 'linear',
    dtype: 'F32',
    grid: 'int',
    out,
    in: inputs,
    bits,
    symmetric,
    group,
    groups,
    actOrder,
  }
}

/** Rounds W [rows, n] at a stage. */
type RoundedCodes = Rounded & { readonly quantized: CodedLinear }

const roundAt = async (
  stage: StageRounding,
  W: Float32Array,
  n: number,
  recipe: Recipe,
  storage = f16Storage,
): Promise<RoundedCodes> => {
  const rows = W.length / n
  const rounded = await stage.round(tensorOf(W, rows, n), schemeOf(rows, n, recipe), storage)
  return { ...rounded, quantized: codedOf(rounded.quantized) }
}

const recipeOf = ({ storage, tokens, ...request }: Case & { method: string }): Recipe =>
  resolveRecipe({ symmetric: false, group: 8, ...request })

/** By error feedback from the Gram matrix of 24 · n tokens, unless said. */
const fed = async (W: Float32Array, gram: ArrayLike<number>, request: Case = {}) => {
  const n = Math.sqrt(gram.length)
  const recipe = recipeOf({ method: 'gptq', ...request })
  const statistics = { count: request.tokens ?? 24 * n, gram: Float32Array.from(gram) }
  const stage = await feedbackRounding(engine, kernels, statistics, recipe, 'block.tap')
  try {
    const rounded = await roundAt(stage, W, n, recipe, request.storage)
    return { damp: stage.damp, deadChannels: stage.deadChannels, ...rounded }
  } finally {
    stage.release()
  }
}

/** Without data. */
const plain = (W: Float32Array, n: number, request: Case = {}): Promise<RoundedCodes> => {
  const recipe = recipeOf({ method: 'rtn', ...request })
  return roundAt(plainRounding(kernels, recipe), W, n, recipe, request.storage)
}

/** W [rows, n] with column order[i] of it at i. */
const columnsMoved = <T extends Float32Array | Uint8Array>(W: T, order: Int32Array): T =>
  W.map((_, at) => W[at - (at % n) + order[at % n]]) as T

const diagonalMatrix = (diagonal: readonly number[]): Float64Array =>
  Float64Array.from({ length: diagonal.length ** 2 }, (_, at) =>
    at % (diagonal.length + 1) === 0 ? diagonal[at % diagonal.length] : 0,
  )

const n = 24
const W = randomWeights(out, n, 1)
const gram = randomGram(n, 60, 2)

describe('error feedback', () => {
  it('that refines or corrects names the weight that is not finite', async () => {
    const broken = W.slice()
    broken[3 * n + 5] = Number.NaN
    await expect(fed(broken, gram, { refine: 'cd' })).rejects.toThrow(/row 3.*column 5/)
  })

  it.each(orders)('is used, and the damping that it took is said, act-order %s', async actOrder => {
    const result = await fed(W, gram, { actOrder, damp: 0.02 })
    expect(result).toMatchObject({ method: 'gptq', fallback: null, damp: 0.02, deadChannels: 0 })
    expect(result.quantized.codes).not.toEqual((await plain(W, n)).quantized.codes)
  })

  it('sweeps and groups by falling activity under g_idx', async () => {
    const { quantized } = await fed(W, gram, { actOrder: 'g_idx' })
    const order = byActivity(Array.from({ length: n }, (_, i) => gram[i * n + i]))
    expect(Array.from(order, column => quantized.groupOf[column])).toEqual(
      Array.from({ length: n }, (_, at) => at >> 3),
    )
  })

  it.each([0.37, 4, 1e6])('equals plain rounding where channels are uncorrelated and alike: H = %f · I', async c => {
    for (const actOrder of orders)
      for (const clip of ['minmax', 'mse'] as const) {
        const request = { actOrder, clip }
        const { quantized, method } = await fed(W, diagonalMatrix(new Array(n).fill(c)), request)
        expect(method).toBe('gptq')
        expect(quantized).toEqual((await plain(W, n, request)).quantized)
      }
  })

  it('equals plain rounding where the tap was always zero', async () => {
    const result = await fed(W, new Float32Array(n * n), { actOrder: 'static' })
    expect(result).toMatchObject({ fallback: null, deadChannels: n })
    expect(result.quantized).toEqual((await plain(W, n)).quantized)
  })

  it('gives the same codes when weights and activations are scaled by powers of two', async () => {
    for (const actOrder of orders) {
      const { quantized } = await fed(W, gram, { actOrder })
      const scaled = await fed(
        W.map(weight => 8 * weight),
        gram.map(value => value / 16),
        { actOrder },
      )
      expect(scaled.quantized.codes).toEqual(quantized.codes)
      expect(scaled.quantized.scales).toEqual(quantized.scales.map(scale => 8 * scale))
    }
  })

  it('gives each row the codes that it has alone', async () => {
    const tall = randomWeights(101, n, 6)
    const whole = await fed(tall, gram, { actOrder: 'static' })
    for (const row of [0, 47, 48, 100]) {
      const alone = await fed(tall.slice(row * n, (row + 1) * n), gram, { actOrder: 'static' })
      expect(whole.quantized.codes.slice(row * n, (row + 1) * n)).toEqual(alone.quantized.codes)
      expect(whole.quantized.scales.slice(row * 3, (row + 1) * 3)).toEqual(alone.quantized.scales)
    }
  })

  it('gives codes that move along with the columns, where the order of the sweep does not depend on theirs', async () => {
    const order = shuffled(n, 7)
    const request = { actOrder: 'static', group: 'channel' } as const
    const { quantized } = await fed(W, gram, request)
    const moved = await fed(columnsMoved(W, order), permuted(gram, n, order), request)
    expect(moved.quantized.codes).toEqual(columnsMoved(quantized.codes, order))
    expect(moved.quantized.scales).toEqual(quantized.scales)
  })

  it('changes nothing that lies on the grid already, whatever was seen', async () => {
    // each group has the lowest and the highest code
    const codes = Array.from(randomWeights(out, n, 5, 1), (x, i) => [0, 15][i % 8] ?? Math.floor(7.5 * (1 + x)))
    const onGrid = Float32Array.from(codes, (code, i) => (code - 6) * 2 ** -(4 + (Math.floor(i / n) % 3)))
    for (const actOrder of ['none', 'static'] as const) {
      const { quantized } = await fed(onGrid, gram, { actOrder })
      expect([...quantized.codes]).toEqual(codes)
      expect(dequantize(quantized)).toEqual(onGrid)
    }
  })
})

describe('channels that were never seen', () => {
  const dead = [8, 9, 10, 11, 12, 13, 14, 15] // one group
  const partlySeen = gram.map((value, at) => (dead.includes(Math.floor(at / n)) || dead.includes(at % n) ? 0 : value))

  it.each(['none', 'static'] as const)('are counted and rounded to nearest, act-order %s', async actOrder => {
    const { quantized, deadChannels } = await fed(W, partlySeen, { actOrder })
    const nearest = (await plain(W, n)).quantized
    expect(deadChannels).toBe(8)
    for (let row = 0; row < out; row++)
      for (const column of dead) expect(quantized.codes[row * n + column]).toBe(nearest.codes[row * n + column])
  })

  it.each(['none', 'static'] as const)('do not move the others, act-order %s', async actOrder => {
    const other = W.map((weight, i) => (dead.includes(i % n) ? 3 - 2 * weight : weight))
    const codesSeen = async (weights: Float32Array) =>
      (await fed(weights, partlySeen, { actOrder })).quantized.codes.filter((_, i) => !dead.includes(i % n))
    expect(await codesSeen(other)).toEqual(await codesSeen(W))
  })
})

describe('rounding to nearest instead of error feedback', () => {
  it('happens below two tokens an input, and is said', async () => {
    const result = await fed(W, gram, { tokens: 2 * n - 1, damp: 0.01 })
    expect(result).toMatchObject({ method: 'rtn', damp: null, deadChannels: 0 })
    expect(result.fallback).toBe('47 tokens for 24 inputs; error feedback needs 48')
    expect(result.quantized).toEqual((await plain(W, n)).quantized)
    expect(await fed(W, gram, { tokens: 2 * n })).toMatchObject({ method: 'gptq', fallback: null })
  })

  it('still weights the clip by what the channels saw', async () => {
    const seen = Array.from({ length: n }, (_, i) => (i % 8 === 3 ? 1000 : 1))
    const heavy = W.map(weight => 1e4 * weight ** 5)
    const request = { tokens: 1, clip: 'mse', bits: 2, symmetric: true } as const
    const error = ({ quantized }: Rounded) =>
      dequantize(quantized).reduce((sum, value, i) => sum + seen[i % n] * (value - heavy[i]) ** 2, 0)
    const weighted = await fed(heavy, diagonalMatrix(seen), request)
    expect(error(weighted)).toBeLessThan(0.9 * error(await plain(heavy, n, request)))
  })

  it('happens where no damping makes the Gram matrix factor', async () => {
    const impossible = diagonalMatrix([1, 1])
    impossible[1] = impossible[2] = 50
    const pair = randomWeights(out, 2, 3)
    const result = await fed(pair, impossible, { group: 'channel', damp: 0.01 })
    expect(result).toMatchObject({ method: 'rtn', damp: null })
    expect(result.fallback).toBe('the Gram matrix of its inputs does not factor')
    expect(result.quantized).toEqual((await plain(pair, 2, { group: 'channel' })).quantized)
  })

  it('happens where the sweep diverges, and names the linear', async () => {
    const huge = W.map(weight => 1e37 * weight)
    const result = await fed(
      huge,
      gram.map(value => 1e12 * value),
      { storage: f32Storage },
    )
    expect(result).toMatchObject({ method: 'rtn', fallback: 'w: the sweep diverged' })
    expect(result.quantized).toEqual((await plain(huge, n, { storage: f32Storage })).quantized)
  })

  it('is no fallback when nothing else was asked', async () => {
    expect(await plain(W, n)).toMatchObject({ method: 'rtn', fallback: null })
  })
})

describe('damping', () => {
  it('is raised until the Gram matrix factors, and the value used is said', async () => {
    // eigenvalues 1 − 1.3 and 1 + 1.3: damping above 0.3 is enough
    const indefinite = Float64Array.of(1, 1.3, 1.3, 1)
    const pair = randomWeights(out, 2, 3)
    expect(await fed(pair, indefinite, { group: 'channel', damp: 0.1 })).toMatchObject({ method: 'gptq', damp: 0.4 })
  })

  it('makes fewer independent tokens than inputs do', async () => {
    const singular = randomGram(n, 5, 3)
    const { method, damp } = await fed(W, singular, { damp: 0 })
    expect(method).toBe('gptq')
    expect(damp).toBeGreaterThan(0)
  })
})

describe('activations that are not finite', () => {
  it.each([Number.NaN, Number.POSITIVE_INFINITY])('are refused by tap and channel: %f', async value => {
    const broken = gram.slice()
    broken[17 * n + 17] = value
    const refusal = { code: 'bad-input', message: expect.stringMatching(/^block\.tap: channel 17 /) }
    await expect(fed(W, broken)).rejects.toThrow(expect.objectContaining(refusal))
  })
})
