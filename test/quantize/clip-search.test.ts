import { afterAll, describe, expect, it } from 'vitest'
import type { Storage } from '../../src/contracts.ts'
import { dequantize } from '../../src/dequantize.ts'
import { matrixOfValues } from '../../src/engine/kernel/panels.ts'
import { createKernels } from '../../src/engine/kernel/pool.ts'
import { diagonalBlocks, groupErrors } from '../../src/engine/ort/group-error.ts'
import { createEngine } from '../../src/engine/ort/session.ts'
import { clips } from '../../src/quantize/clip/index.ts'
import { searchClip } from '../../src/quantize/clip-search.ts'
import { gridNamed } from '../../src/quantize/grid/index.ts'
import { type LinearJob, quantizeLinear } from '../../src/quantize/quantize-linear.ts'
import { multiplyColumns, sampledRows, stacked, trialLosses } from '../../src/quantize/trial.ts'
import { f16Storage, randomGram, randomWeights } from '../helpers/linears.ts'
import { randomScheme } from './scheme.ts'

const engine = await createEngine(2)
const kernels = await createKernels(2)
afterAll(async () => {
  await engine.release()
  await kernels.close()
})

const [out, inputs] = [50, 64]
const gram = Float32Array.from(randomGram(inputs, 300, 4))
const weights = randomWeights(out, inputs, 9).map((weight, i) => (i % 37 === 0 ? 4 * weight : weight))

const biasedStorage: Storage = { decode: 'biased', scaleDtype: 'F16', biasDtype: 'F16' }

const jobOf = (group: LinearJob['group'], symmetric: boolean, storage = f16Storage): LinearJob => ({
  ...matrixOfValues('w', weights, out, inputs),
  grid: gridNamed('int', 3, symmetric),
  ...{ clip: 'awq', group, storage, rounding: { name: 'nearest' } },
})

/** dᵀ G d of one group of a row, in plain float64. */
const plainError = (delta: Float32Array, row: number, start: number, size: number): number => {
  let sum = 0
  for (let i = start; i < start + size; i++)
    for (let j = start; j < start + size; j++)
      sum += delta[row * inputs + i] * gram[i * inputs + j] * delta[row * inputs + j]
  return sum
}

it('errors of groups are those of the plain sum', async () => {
  const found = await groupErrors(engine, weights, out, diagonalBlocks(gram, inputs, 16), 16)
  for (let group = 0; group < 4; group++)
    for (let row = 0; row < out; row++) {
      const plain = plainError(weights, row, 16 * group, 16)
      expect(Math.abs(found[group * out + row] - plain)).toBeLessThan(1e-4 * Math.abs(plain) + 1e-7)
    }
})

describe("AWQ's clip search", () => {
  it.each([
    [16, false, f16Storage],
    [32, true, f16Storage],
    ['channel', false, f16Storage],
    [16, false, biasedStorage],
    [32, true, biasedStorage],
  ] as const)(
    'takes for each group of %s the cut of least output error (symmetric: %s, %o)',
    async (group, symmetric, storage) => {
      const job = jobOf(group, symmetric, storage)
      const size = group === 'channel' ? inputs : group
      const given = await searchClip(engine, kernels, job, gram)
      const { quantized } = await quantizeLinear(kernels, { ...job, given })
      const deltaOf = (values: Float32Array): Float32Array => weights.map((weight, i) => weight - values[i])
      const chosen = deltaOf(dequantize(quantized))
      // every candidate by itself, cut by hand
      const candidates: Float32Array[] = []
      for (let step = 0; step < 10; step++) {
        const cut = weights.slice()
        for (let start = 0; start < cut.length; start += size) {
          const bound = Math.max(...weights.subarray(start, start + size).map(Math.abs)) * (1 - step / 20)
          for (let i = start; i < start + size; i++) cut[i] = Math.max(-bound, Math.min(bound, cut[i]))
        }
        const fitted = await quantizeLinear(kernels, { ...job, ...matrixOfValues('w', cut, out, inputs) })
        const plain = await quantizeLinear(kernels, { ...job, given: fitted.quantized })
        candidates.push(deltaOf(dequantize(plain.quantized)))
      }
      let clipped = 0
      for (let row = 0; row < out; row++)
        for (let start = 0; start < inputs; start += size) {
          const errors = candidates.map(delta => plainError(delta, row, start, size))
          const least = Math.min(...errors)
          expect(plainError(chosen, row, start, size)).toBeLessThan(least * (1 + 1e-4) + 1e-9)
          if (errors[0] > least * 1.001) clipped++
        }
      expect(clipped).toBeGreaterThan(out / 4)
    },
  )

  it('fits as min-max does without a cut', () => expect(clips.awq.shrinks).toEqual(clips.minmax.shrinks))
})

describe('a trial', () => {
  const { scheme, storage } = randomScheme(out, inputs, 16)
  const linear = { scheme, storage, weights }

  it('is the error that rounding the scaled weights leaves in the outputs', async () => {
    const factors = Float32Array.from({ length: inputs }, (_, i) => 1 + (i % 5) / 3)
    const [found] = await trialLosses(engine, kernels, [linear], [factors], gram, 'minmax')
    const scaled = multiplyColumns(weights.slice(), factors)
    const { quantized } = await quantizeLinear(kernels, {
      ...jobOf(16, scheme.symmetric),
      ...matrixOfValues('w', scaled, out, inputs),
      grid: gridNamed('int', scheme.bits, scheme.symmetric),
      ...{ clip: 'minmax', storage },
    })
    const decoded = dequantize(quantized)
    const delta = weights.map((weight, i) => weight - decoded[i] / factors[i % inputs])
    let plain = 0
    for (let row = 0; row < out; row++) plain += plainError(delta, row, 0, inputs)
    expect(found / plain).toBeCloseTo(1, 4)
  })

  it('of powers of two that a group shares is the same', async () => {
    const factors = Float32Array.from({ length: inputs }, (_, i) => 2 ** Math.floor(i / 16))
    const [scaled, plain] = await trialLosses(engine, kernels, [linear], [factors, undefined], gram, 'minmax')
    expect(scaled / plain).toBeCloseTo(1, 5)
  })

  it('of linears together is the sum of theirs, and of every row the whole', async () => {
    const other = { ...linear, weights: randomWeights(out, inputs, 3), scheme: { ...scheme, name: 'other' } }
    const lossOf = async (linears: Parameters<typeof trialLosses>[2]) =>
      (await trialLosses(engine, kernels, linears, [undefined], gram, 'minmax'))[0]
    const sum = (await lossOf([linear])) + (await lossOf([other]))
    expect(stacked([linear, other])).toHaveLength(1)
    expect((await lossOf(stacked([linear, other]))) / sum).toBeCloseTo(1, 5)
    expect(sampledRows([linear], 1)[0].weights).toEqual(weights)
    expect(sampledRows([linear], 8)[0].scheme.out).toBe(7)
  })
})
