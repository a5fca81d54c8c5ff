import { afterAll, describe, expect, it } from 'vitest'
import type { CodedLinear, Storage } from '../../src/contracts.ts'
import { dequantize } from '../../src/dequantize.ts'
import { fromFloat32, toFloat32 } from '../../src/dtype/convert.ts'
import { matrixOfValues } from '../../src/engine/kernel/panels.ts'
import { createKernels } from '../../src/engine/kernel/pool.ts'
import { createEngine } from '../../src/engine/ort/session.ts'
import { packBlocks, unpackBlocks } from '../../src/gguf/blocks.ts'
import { blocksOf, codedOf, decodedBlocks } from '../../src/gguf/coded.ts'
import { schemeOfType, storageOfType } from '../../src/gguf/scheme.ts'
import type { RoundedType } from '../../src/gguf/types.ts'
import { gridNamed } from '../../src/quantize/grid/index.ts'
import { quantizeBlocks } from '../../src/quantize/quantize-blocks.ts'
import { type LinearJob, quantizeLinear } from '../../src/quantize/quantize-linear.ts'
import { createRefiner } from '../../src/quantize/refine.ts'
import { refineScales } from '../../src/quantize/refine-scales.ts'
import { differenceOf, f16Storage, quadraticForm, randomGram, randomWeights } from '../helpers/linears.ts'

const engine = await createEngine(2)
const kernels = await createKernels(2)
afterAll(async () => {
  await engine.release()
  await kernels.close()
})

const out = 12
const nearest = { name: 'nearest' } as const
const errorOf = (linear: CodedLinear, W: Float32Array, H: ArrayLike<number>): number =>
  quadraticForm(differenceOf(dequantize(linear), W), H, linear.in)

const jobOf = (
  W: Float32Array,
  n: number,
  bits: 2 | 3 | 4,
  symmetric: boolean,
  storage: Storage = f16Storage,
): LinearJob => ({
  ...matrixOfValues('w', W, out, n),
  ...{ grid: gridNamed('int', bits, symmetric), clip: 'minmax', group: 16, storage, rounding: nearest },
})

/** What a round does, written down: coordinate by coordinate in float64. */
const descendCodes = (linear: CodedLinear, W: Float32Array, H: ArrayLike<number>): Uint8Array => {
  const { in: n, codes, scales, zeros, groupOf, bits } = linear
  const next = codes.slice()
  const groups = scales.length / out
  for (let row = 0; row < out; row++)
    for (let i = 0; i < n; i++) {
      let x = W[row * n + i]
      for (let j = 0; j < n; j++) {
        const group = row * groups + groupOf[j]
        const decoded = (next[row * n + j] - zeros[group]) * scales[group]
        if (j !== i) x += ((W[row * n + j] - decoded) * H[j * n + i]) / H[i * n + i]
      }
      const group = row * groups + groupOf[i]
      next[row * n + i] = Math.max(0, Math.min(2 ** bits - 1, Math.round(x / scales[group] + zeros[group])))
    }
  return next
}

describe('coordinate descent on codes', () => {
  const n = 48
  const W = randomWeights(out, n, 3)
  const H = Float32Array.from(randomGram(n, 200, 4))

  it.each([
    [2, true],
    [3, false],
    [4, true],
  ] as const)('takes the best code of each weight in turn: %i bits, symmetric %s', async (bits, symmetric) => {
    const coarse: Storage = { ...f16Storage, scaleDtype: 'E4M3' } // its scales are not refined
    const job = jobOf(W, n, bits, symmetric, coarse)
    const { quantized } = await quantizeLinear(kernels, job)
    const refiner = await createRefiner(engine, kernels, H)
    let expected = quantized
    for (let round = 0; round < 3; round++) expected = { ...expected, codes: descendCodes(expected, W, H) }
    const refined = await refiner.refine(job, W, quantized)
    refiner.release()
    expect(refined.scales).toEqual(quantized.scales)
    const same = refined.codes.filter((code, i) => code === expected.codes[i]).length
    expect(same / refined.codes.length).toBeGreaterThan(0.99) // ties of float32
    expect(errorOf(refined, W, H)).toBeCloseTo(errorOf(expected, W, H), 5)
    expect(errorOf(refined, W, H)).toBeLessThan(0.8 * errorOf(quantized, W, H))
  })

  it('leaves rounding to nearest as it is where inputs are independent', async () => {
    const diagonal = Float32Array.from(H, (value, at) => (at % (n + 1) === 0 ? value : 0))
    const job = jobOf(W, n, 4, true, { ...f16Storage, scaleDtype: 'E4M3' })
    const { quantized } = await quantizeLinear(kernels, job)
    const refiner = await createRefiner(engine, kernels, diagonal)
    expect((await refiner.refine(job, W, quantized)).codes).toEqual(quantized.codes)
    refiner.release()
  })
})

describe('scales', () => {
  const n = 64
  const W = randomWeights(out, n, 5)
  const H = Float32Array.from(randomGram(n, 300, 6))

  it('of a whole row are those of least squares: (w·H·q) / (q·H·q)', async () => {
    const storage: Storage = { ...f16Storage, scaleDtype: 'F32' }
    const job: LinearJob = { ...jobOf(W, n, 3, true, storage), group: 'channel' }
    const { quantized } = await quantizeLinear(kernels, job)
    const delta = Float32Array.from(differenceOf(dequantize(quantized), W))
    const refined = await refineScales(engine, quantized, { group: 'channel', storage, hessian: H, delta })
    for (let row = 0; row < out; row++) {
      const q = Array.from(quantized.codes.subarray(row * n, (row + 1) * n), code => code - quantized.zeros[row])
      const w = W.subarray(row * n, (row + 1) * n)
      let [wHq, qHq] = [0, 0]
      for (let i = 0; i < n; i++)
        for (let j = 0; j < n; j++) {
          wHq += w[i] * H[i * n + j] * q[j]
          qHq += q[i] * H[i * n + j] * q[j]
        }
      expect(refined.scales[row] / (wHq / qHq)).toBeCloseTo(1, 4)
    }
  })

  it.each([
    ['affine', 'F16'],
    ['affine', 'BF16'],
    ['biased', 'F16'],
  ] as const)('of %s groups make the error less, and %s holds them', async (decode, dtype) => {
    const storage: Storage =
      decode === 'biased'
        ? { decode, scaleDtype: dtype, biasDtype: dtype }
        : { decode, scaleDtype: dtype, zeroRange: [0, 255] }
    const { quantized } = await quantizeLinear(kernels, jobOf(W, n, 3, false, storage))
    const delta = Float32Array.from(differenceOf(dequantize(quantized), W))
    const refined = await refineScales(engine, quantized, { group: 16, storage, hessian: H, delta })
    expect(errorOf(refined, W, H)).toBeLessThan(0.95 * errorOf(quantized, W, H))
    for (const values of [refined.scales, refined.biases])
      expect(toFloat32(fromFloat32(values, dtype), dtype)).toEqual(values)
  })

  it('of a symmetric grid take its biases along', async () => {
    const storage: Storage = { decode: 'biased', scaleDtype: 'F16', biasDtype: 'F16' }
    const job = jobOf(W, n, 4, true, storage)
    const { quantized } = await quantizeLinear(kernels, job)
    const delta = Float32Array.from(differenceOf(dequantize(quantized), W))
    const refined = await refineScales(engine, quantized, { group: 16, storage, middle: 8, hessian: H, delta })
    expect(errorOf(refined, W, H)).toBeLessThan(errorOf(quantized, W, H))
    expect(refined.scales).not.toEqual(quantized.scales)
    const refiner = await createRefiner(engine, kernels, H)
    const whole = await refiner.refine(job, W, quantized)
    refiner.release()
    for (const { scales, biases } of [refined, whole]) expect(biases).toEqual(scales.map(scale => -8 * scale))
    expect(errorOf(whole, W, H)).toBeLessThan(0.8 * errorOf(quantized, W, H))
  })

  it('that rows share are left', async () => {
    const job: LinearJob = { ...jobOf(W, n, 4, true), group: 'tensor' }
    const { quantized } = await quantizeLinear(kernels, job)
    const delta = Float32Array.from(differenceOf(dequantize(quantized), W))
    const { storage } = job
    expect(await refineScales(engine, quantized, { group: 'tensor', storage, hessian: H, delta })).toBe(quantized)
  })
})

const types = ['Q4_0', 'Q4_1', 'Q5_0', 'Q8_0', 'IQ4_NL', 'Q2_K', 'Q3_K', 'Q4_K', 'Q5_K', 'Q6_K', 'IQ4_XS'] as const

describe.each(types)('%s', (type: RoundedType) => {
  it('is refined within what its blocks hold', async () => {
    const n = 512
    const W = randomWeights(out, n, 7)
    const H = Float32Array.from(randomGram(n, 600, 8))
    for (let i = 0; i < n; i++) H[i * n + i] += 0.01
    const { grid, bits, symmetric, group } = schemeOfType(type)
    const storage = storageOfType(type)
    const job: LinearJob = {
      ...matrixOfValues('w', W, out, n),
      ...{ grid: gridNamed(grid, bits, symmetric), clip: 'minmax', group, storage, rounding: nearest },
      weighting: Float32Array.from({ length: n }, (_, i) => H[i * n + i]),
    }
    const refiner = await createRefiner(engine, kernels, H)
    const rounded = (await quantizeBlocks(kernels, type, job)).quantized
    const given = rounded.decode === 'blocks' ? decodedBlocks(rounded) : rounded
    const refined = await refiner.refine(job, W, given, type)
    refiner.release()
    expect(errorOf(refined, W, H)).toBeLessThan(0.75 * errorOf(given, W, H))
    const stored = unpackBlocks(type, packBlocks(type, blocksOf(type, refined)))
    expect(dequantize(codedOf(type, stored, out, n))).toEqual(dequantize(refined))
  })
})
