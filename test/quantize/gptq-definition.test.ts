import { afterAll, describe, expect, it } from 'vitest'
import type { ActOrder, Bits } from '../../src/contracts.ts'
import { fromFloat32, toFloat32 } from '../../src/dtype/convert.ts'
import { createKernels } from '../../src/engine/kernel/pool.ts'
import { createEngine } from '../../src/engine/ort/session.ts'
import { actOrder as byActivity } from '../../src/quantize/act-order.ts'
import type { Columns, Encoder } from '../../src/quantize/encoder.ts'
import { gptq } from '../../src/quantize/rounding/gptq.ts'
import { feedbackRounding } from '../../src/quantize/stage-rounding.ts'
import { resolveRecipe } from '../../src/recipe.ts'
import { codedOf } from '../format/linears.ts'
import {
  f16Storage,
  factorOf,
  leastErrorRest,
  permuted,
  quadraticForm,
  randomGram,
  randomWeights,
  shuffled,
  tensorOf,
} from '../helpers/linears.ts'

const engine = await createEngine(2)
const kernels = await createKernels(2)
afterAll(async () => {
  await engine.release()
  await kernels.close()
})

const [out, n, group] = [12, 24, 8]
const gram = randomGram(n, 60, 2)
const diagonal = Array.from({ length: n }, (_, i) => gram[i * n + i])

interface Grid {
  readonly bits: Bits
  readonly symmetric: boolean
}

/** The codes that a run gives. */
const codesOf = async (
  W: Float32Array,
  { bits, symmetric }: Grid,
  actOrder: ActOrder,
  damp: number,
): Promise<Uint8Array> => {
  const statistics = { count: 100 * n, gram: Float32Array.from(gram) }
  const recipe = resolveRecipe({ bits, symmetric, group, actOrder, damp })
  const weight = { name: 'w', role: 'linear', dtype: 'F32', grid: 'int', out, in: n } as const
  const scheme = { ...weight, bits, symmetric, group, groups: n / group, actOrder }
  const stage = await feedbackRounding(engine, kernels, statistics, recipe, 'tap')
  const { quantized } = await stage.round(tensorOf(W, out, n), scheme, f16Storage)
  stage.release()
  return codedOf(quantized).codes
}

const asFloat16 = (x: number): number => toFloat32(fromFloat32(Float32Array.of(x), 'F16'), 'F16')[0]

/**
 * The codes by what GPTQ promises, in float64 and without a factor: column by column, where the output error is least given the columns
 * before it, to the nearest code. Scales are those of the group's weights before the sweep (static) or as the sweep has left them.
 * `margin`: the least distance, in steps, of any value from where another code or zero point would be chosen.
 */
const byDefinition = (W: Float32Array, { bits, symmetric }: Grid, actOrder: ActOrder, H: Float64Array) => {
  const maxCode = 2 ** bits - 1
  const order = actOrder === 'none' ? [...diagonal.keys()] : [...byActivity(diagonal)]
  const codes = new Uint8Array(out * n)
  const decoded = new Float64Array(out * n)
  let margin = 0.5
  const nearestCode = (x: number): number => {
    const [below, above] = [Math.floor(x), Math.ceil(x)].map(code => Math.min(maxCode, Math.max(0, code)))
    if (below !== above) margin = Math.min(margin, Math.abs(x - below - 0.5))
    return x - below < 0.5 ? below : above
  }
  const parametersOf = (weights: ArrayLike<number>) => {
    const [low, high] = [Math.min(0, ...Array.from(weights)), Math.max(0, ...Array.from(weights))]
    if (symmetric) return { scale: asFloat16((2 * Math.max(high, -low)) / maxCode), zero: 2 ** (bits - 1) }
    const scale = asFloat16((high - low) / maxCode)
    return { scale, zero: nearestCode(-low / scale) }
  }
  for (let row = 0; row < out; row++) {
    const parameters = Array.from({ length: n / group }, (_, g) =>
      parametersOf(W.subarray(row * n + g * group, row * n + (g + 1) * group)),
    )
    for (const [at, column] of order.entries()) {
      const rest = leastErrorRest(W, decoded, H, n, order, at, row)
      if (actOrder !== 'static' && at % group === 0) parameters[at / group] = parametersOf(rest.subarray(0, group))
      const { scale, zero } = parameters[Math.floor((actOrder === 'static' ? column : at) / group)]
      const code = nearestCode(rest[0] / scale + zero)
      codes[row * n + column] = code
      decoded[row * n + column] = (code - zero) * scale
    }
  }
  return { codes, margin }
}

describe('gptq codes each column where the output error is least given the columns before it', () => {
  it.each(
    (['none', 'static', 'g_idx'] as const).flatMap(actOrder =>
      ([2, 3, 4] as const).flatMap(bits => [true, false].map(symmetric => ({ actOrder, bits, symmetric }))),
    ),
  )('act-order $actOrder, $bits bits, symmetric $symmetric', async ({ actOrder, ...grid }) => {
    const damp = 0.05
    const mean = diagonal.reduce((a, b) => a + b) / n
    const H = gram.map((value, at) => value + (at % (n + 1) === 0 ? damp * mean : 0))
    // weights of which none comes so near to a tie that float32 may round it otherwise
    for (let seed = 1; seed <= 50; seed++) {
      const W = randomWeights(out, n, seed)
      const { codes, margin } = byDefinition(W, grid, actOrder, H)
      if (margin < 1e-4) continue
      return expect(await codesOf(W, grid, actOrder, damp)).toEqual(codes)
    }
    throw new Error('every seed comes near a tie')
  })
})

describe('gptq over an encoder of two columns at once', () => {
  /** To the nearest point of the lattice of integers with an even sum, times 1/16. */
  const nearestEven = (x: number, y: number): [number, number] => {
    const [a, b] = [Math.round(16 * x), Math.round(16 * y)]
    if ((a + b) % 2 === 0) return [a / 16, b / 16]
    const [da, db] = [16 * x - a, 16 * y - b]
    return Math.abs(da) > Math.abs(db)
      ? [(a + (Math.sign(da) || 1)) / 16, b / 16]
      : [a / 16, (b + (Math.sign(db) || 1)) / 16]
  }

  it('codes each pair where the output error is least given the pairs before it, and says that error', () => {
    const pairs = shuffled(n / 2, 4)
    const W = randomWeights(out, n, 1)
    const order = Int32Array.from({ length: n }, (_, at) => 2 * pairs[at >> 1] + (at % 2))
    const decoded = new Float64Array(out * n)
    const encoder: Encoder = {
      step: 2,
      fitUnit: n,
      groups: 1,
      fit: () => {},
      encode(column, [first, second]): Columns {
        const points = Array.from(first, (x, row) => nearestEven(x, second[row]))
        for (const [row, point] of points.entries()) decoded.set(point, row * n + column)
        return [0, 1].map(i => Float32Array.from(points, point => point[i]))
      },
    }
    const columns = Array.from({ length: n }, (_, column) =>
      Float32Array.from({ length: out }, (_, row) => W[row * n + column]),
    )
    const factor = factorOf(permuted(gram, n, order), n)
    const sweep = { order, weighting: new Float32Array(n).fill(1), fitsInSweep: false, factor }
    const loss = gptq.round(columns, sweep, encoder)

    for (let row = 0; row < out; row++)
      for (let at = 0; at < n; at += 2) {
        const [x, y] = leastErrorRest(W, decoded, gram, n, order, at, row)
        expect([...decoded.subarray(row * n + order[at], row * n + order[at] + 2)]).toEqual(nearestEven(x, y))
      }
    expect(
      loss! /
        quadraticForm(
          decoded.map((value, i) => W[i] - value),
          gram,
          n,
        ),
    ).toBeCloseTo(1, 4)
  })
})
