import { afterAll, describe, expect, it } from 'vitest'
import type { ActOrder, ClipName, CodedLinear } from '../../src/contracts.ts'
import { dequantize } from '../../src/dequantize.ts'
import { createKernels, type Kernels } from '../../src/engine/kernel/pool.ts'
import { actOrder as byActivity } from '../../src/quantize/act-order.ts'
import {
  byKernels,
  byReference,
  differenceOf,
  type Feedback,
  f16Storage,
  factorOf,
  inverseOf,
  type Setting as PlainSetting,
  permuted,
  quadraticForm,
  randomGram,
  randomWeights,
} from '../helpers/linears.ts'

const pools = await Promise.all([1, 2, 4].map(createKernels))
const kernels = pools[1]
afterAll(() => Promise.all(pools.map(pool => pool.close())))

interface Setting extends PlainSetting {
  /** undefined: round to nearest. */
  readonly actOrder?: ActOrder
}

const base: Setting = {
  out: 33,
  in: 40,
  bits: 4,
  symmetric: false,
  clip: 'minmax',
  group: 8,
  dtype: 'F32',
  storage: f16Storage,
}

const diagonal = (H: Float64Array, n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => H[i * n + i])

/** The setting, and what error feedback needs of H (natural order), if it is asked for. */
const withFeedback = ({ actOrder, ...setting }: Setting, H?: Float64Array): readonly [PlainSetting, Feedback?] => {
  if (!actOrder || !H) return [setting]
  const n = setting.in
  const weighting = diagonal(H, n)
  const order = actOrder === 'none' ? undefined : byActivity(weighting)
  return [
    { ...setting, weighting },
    { U: factorOf(order ? permuted(H, n, order) : H, n), actOrder, order },
  ]
}

const quantize = (pool: Kernels, W: Float32Array, setting: Setting, H?: Float64Array) =>
  byKernels(pool, W, ...withFeedback(setting, H))

const reference = (W: Float32Array, setting: Setting, H?: Float64Array) => byReference(W, ...withFeedback(setting, H))

const settings: readonly Setting[] = [
  ...([2, 3, 4, 8] as const).flatMap(bits =>
    [true, false].flatMap(symmetric =>
      (['minmax', 'mse'] as const).flatMap(clip =>
        [undefined, 'none', 'static', 'g_idx'].map(order => ({
          ...base,
          bits,
          symmetric,
          clip,
          actOrder: order as ActOrder | undefined,
        })),
      ),
    ),
  ),
  ...([1, 5, 48, 49, 172] as const).map(out => ({ ...base, out, actOrder: 'static' as const })),
  ...(['channel', 'tensor', 1, 5, 20] as const).flatMap(group =>
    [undefined, 'none' as const, 'static' as const].map(actOrder => ({
      ...base,
      clip: 'mse' as const,
      group,
      actOrder,
    })),
  ),
  { ...base, in: 7, group: 'channel', actOrder: 'none' },
  { ...base, in: 96, group: 32, actOrder: 'none', clip: 'mse' },
  { ...base, dtype: 'BF16', actOrder: 'static' },
  { ...base, dtype: 'F16', clip: 'mse' },
  { ...base, storage: { ...f16Storage, zeroRange: [1, 15] }, actOrder: 'none' },
  { ...base, storage: { ...f16Storage, scaleDtype: 'BF16' } },
  { ...base, storage: { ...f16Storage, scaleDtype: 'F32' }, actOrder: 'static' },
]

const label = ({ out, in: inputs, bits, symmetric, clip, group, actOrder, dtype, storage }: Setting): string =>
  `${out} × ${inputs}, ${bits} bits, ${symmetric ? 'sym' : 'asym'}, group ${group}, ${clip}, ${actOrder ?? 'nearest'}, ${dtype}, ${storage.scaleDtype} ≥ ${storage.zeroRange![0]}`

describe('the kernels', () => {
  it.each(settings.map(setting => [label(setting), setting] as const))(
    'give the bits of the reference, on 1, 2 and 4 threads: %s',
    async (_, setting) => {
      const W = randomWeights(setting.out, setting.in, 7)
      const H = randomGram(setting.in, 3 * setting.in, 11)
      const expected = reference(W, setting, H)
      for (const pool of pools) expect(await quantize(pool, W, setting, H)).toEqual(expected)
    },
  )

  it('give all shared memory back', async () => {
    const held = kernels.held()
    const W = randomWeights(100, 64, 3)
    const H = randomGram(64, 200, 4)
    for (let i = 0; i < 5; i++) await quantize(kernels, W, { ...base, out: 100, in: 64, actOrder: 'static' }, H)
    W[77] = Number.NaN
    await expect(quantize(kernels, W, { ...base, out: 100, in: 64 })).rejects.toThrow()
    expect(kernels.held()).toBe(held)
  })
})

/**
 * Optimal brain quantization with a fixed order, from its definition: code a column, move the others to where the output error is least
 * (Frantar & Alistarh 2022, eq. 7 and 8), with the inverse of what remains of H computed anew for each column.
 */
const greedy = (
  W: Float32Array,
  H: Float64Array,
  order: ArrayLike<number>,
  { scales, zeros, groupOf, bits, out }: CodedLinear,
) => {
  const n = groupOf.length
  const groups = scales.length / out
  const weights = Float64Array.from(W)
  const codes = new Uint8Array(W.length)
  for (let position = 0; position < n; position++) {
    const left = Array.from({ length: n - position }, (_, i) => order[position + i])
    const inverse = inverseOf(
      Float64Array.from(
        { length: left.length ** 2 },
        (_, at) => H[left[Math.floor(at / left.length)] * n + left[at % left.length]],
      ),
      left.length,
    )
    const column = left[0]
    for (let row = 0; row < out; row++) {
      const group = row * groups + groupOf[column]
      const exact = weights[row * n + column] / scales[group] + zeros[group]
      const code = Math.min(2 ** bits - 1, Math.max(0, Math.round(exact)))
      codes[row * n + column] = code
      const error = (weights[row * n + column] - (code - zeros[group]) * scales[group]) / inverse[0]
      for (const [i, other] of left.entries()) weights[row * n + other] -= error * inverse[i]
    }
  }
  return codes
}

describe('gptq', () => {
  const n = 24
  const W = randomWeights(20, n, 21)
  const H = randomGram(n, 60, 22)
  const small = { ...base, out: 20, in: n }

  it.each(['none', 'static', 'g_idx'] as const)(
    'gives the codes of greedy optimal brain quantization, order %s',
    async order => {
      for (const group of [8, 'channel'] as const) {
        if (order === 'g_idx' && group === 'channel') continue
        const { quantized } = await quantize(kernels, W, { ...small, group, actOrder: order }, H)
        const activity = order === 'none' ? new Float32Array(n) : diagonal(H, n)
        const columns = byActivity(activity)
        expect(quantized.codes).toEqual(greedy(W, H, columns, quantized))
      }
    },
  )

  it.each(['none', 'static', 'g_idx'] as const)('reports the output error tr(ΔW·H·ΔWᵀ), order %s', async order => {
    const { quantized, loss } = await quantize(kernels, W, { ...small, actOrder: order }, H)
    const exact = quadraticForm(differenceOf(W, dequantize(quantized)), H, n)
    expect(loss! / exact).toBeCloseTo(1, 4)
  })

  it('loses less than rounding to nearest, at every bit width', async () => {
    for (const bits of [2, 3, 4, 8] as const) {
      const plain = await quantize(kernels, W, { ...small, bits })
      const fed = await quantize(kernels, W, { ...small, bits, actOrder: 'static' }, H)
      const error = ({ quantized }: typeof plain) => quadraticForm(differenceOf(W, dequantize(quantized)), H, n)
      expect(error(fed)).toBeLessThan(0.8 * error(plain))
    }
  })

  it.each([0.25, 1, 1024])(
    'equals rounding to nearest, bit for bit, where channels are uncorrelated and alike: H = %f · I',
    async c => {
      const identity = Float64Array.from({ length: n * n }, (_, at) => (at % (n + 1) === 0 ? c : 0))
      for (const clip of ['minmax', 'mse'] as const)
        for (const actOrder of ['none', 'static', 'g_idx'] as const) {
          const plain = await quantize(kernels, W, { ...small, clip })
          const fed = await quantize(kernels, W, { ...small, clip, actOrder }, identity)
          expect(fed.quantized).toEqual(plain.quantized)
        }
    },
  )

  it('puts neighbours of the activation order into one group under g_idx', async () => {
    const { quantized } = await quantize(kernels, W, { ...small, actOrder: 'g_idx' }, H)
    const order = byActivity(diagonal(H, n))
    expect(Array.from(order, column => quantized.groupOf[column])).toEqual(Array.from({ length: n }, (_, i) => i >> 3))
  })
})

describe('rounding to nearest', () => {
  const W = randomWeights(33, 40, 31)

  it.each([2, 3, 4, 8] as const)(
    'is off by half a step, or one where the zero point was rounded, %i bits',
    async bits => {
      for (const symmetric of [true, false]) {
        const { quantized } = await quantize(kernels, W, { ...base, bits, symmetric })
        const decoded = dequantize(quantized)
        const slack = symmetric ? 0.5 + 2 ** bits / 2 ** 11 : 1.01
        for (const [i, weight] of W.entries()) {
          const scale = quantized.scales[Math.floor(i / 40) * 5 + Math.floor((i % 40) / 8)]
          expect(Math.abs(weight - decoded[i])).toBeLessThanOrEqual(scale * slack)
        }
      }
    },
  )

  it('changes nothing that lies on the grid already', async () => {
    const once = dequantize((await quantize(kernels, W, base)).quantized)
    expect(dequantize((await quantize(kernels, once, base)).quantized)).toEqual(once)
  })

  it('gives the same codes for weights scaled by a power of two', async () => {
    const { quantized } = await quantize(kernels, W, base)
    const scaled = await quantize(
      kernels,
      W.map(weight => 4 * weight),
      base,
    )
    expect(scaled.quantized.codes).toEqual(quantized.codes)
    expect(scaled.quantized.scales).toEqual(quantized.scales.map(scale => 4 * scale))
  })

  it('loses no more with --clip mse than with minmax, in any group', async () => {
    const heavy = W.map(weight => weight ** 5 * 1e4)
    const errors = async (clip: ClipName) => {
      const decoded = dequantize((await quantize(kernels, heavy, { ...base, bits: 3, clip })).quantized)
      const difference = differenceOf(heavy, decoded)
      return Array.from({ length: heavy.length / 8 }, (_, g) =>
        difference.subarray(8 * g, 8 * g + 8).reduce((sum, d) => sum + d * d, 0),
      )
    }
    const [plain, clipped] = [await errors('minmax'), await errors('mse')]
    for (const [g, error] of clipped.entries()) expect(error).toBeLessThanOrEqual(plain[g] * 1.000001)
    expect(clipped.reduce((a, b) => a + b)).toBeLessThan(0.95 * plain.reduce((a, b) => a + b))
  })

  it('keeps zeros zero, also in a group of nothing else', async () => {
    const sparse = W.map((weight, i) => (i % 40 < 8 || i % 3 === 0 ? 0 : weight))
    for (const symmetric of [true, false]) {
      const decoded = dequantize((await quantize(kernels, sparse, { ...base, symmetric })).quantized)
      for (const [i, weight] of sparse.entries()) if (weight === 0) expect(decoded[i] + 0).toBe(0)
    }
  })
})

describe('what cannot be quantized', () => {
  it.each([
    [Number.NaN, 'NaN'],
    [Number.POSITIVE_INFINITY, 'infinite'],
    [Number.NEGATIVE_INFINITY, 'infinite'],
  ])('%f is refused with its place', async (value, word) => {
    const W = randomWeights(120, 40, 41)
    W[100 * 40 + 17] = value
    for (const dtype of ['F32', 'F16', 'BF16'] as const)
      await expect(quantize(kernels, W, { ...base, out: 120, dtype })).rejects.toThrow(
        `w: row 100, column 17 is ${word}`,
      )
  })

  it('a scale beyond float16 is refused with its row; a tiny one is raised to the smallest normal number', async () => {
    const W = randomWeights(33, 40, 43)
    W[9 * 40] = 1e7
    await expect(quantize(kernels, W, { ...base, symmetric: true })).rejects.toThrow(/row 9 needs a scale of .* F16/)
    const tiny = randomWeights(33, 40, 43, 1e-7)
    const { quantized } = await quantize(kernels, tiny, base)
    expect(new Set(quantized.scales)).toEqual(new Set([2 ** -14]))
  })

  it('a group that does not divide the inputs is refused with those that do', async () => {
    await expect(quantize(kernels, randomWeights(33, 40, 1), { ...base, group: 16 })).rejects.toThrow(
      /does not divide 40.*10, 20/,
    )
  })
})
