import { afterAll, describe, expect, it } from 'vitest'
import type { LinearScheme, Storage } from '../../src/contracts.ts'
import { dequantize } from '../../src/dequantize.ts'
import { fromFloat32, toFloat32 } from '../../src/dtype/convert.ts'
import { matrixOfValues, type PanelDtype } from '../../src/engine/kernel/panels.ts'
import { createKernels } from '../../src/engine/kernel/pool.ts'
import { gridNamed } from '../../src/quantize/grid/index.ts'
import { type Change, nearestErrors } from '../../src/quantize/nearest-errors.ts'
import { type LinearJob, quantizeLinear } from '../../src/quantize/quantize-linear.ts'
import { multiplyColumns } from '../../src/quantize/trial.ts'
import { f16Storage, randomWeights } from '../helpers/linears.ts'

const pools = await Promise.all([1, 3].map(createKernels))
afterAll(() => Promise.all(pools.map(pool => pool.close())))

const biased: Storage = { decode: 'biased', scaleDtype: 'F16', biasDtype: 'F16' }
const levels: Storage = { decode: 'levels', scaleDtype: 'F32' }

interface Case extends Pick<LinearScheme, 'out' | 'in' | 'grid' | 'bits' | 'symmetric' | 'group'> {
  readonly storage: Storage
  readonly dtype: PanelDtype
}

const plain = { in: 96, grid: 'int', bits: 4, symmetric: false, storage: f16Storage, group: 32, dtype: 'F32' } as const

const cases: readonly Case[] = [
  { ...plain, out: 50 },
  { ...plain, out: 1100, in: 12, group: 6 },
  { ...plain, out: 7, in: 45, group: 15, dtype: 'BF16' },
  { ...plain, out: 97, symmetric: true, group: 'channel', dtype: 'F16' },
  { ...plain, out: 49, bits: 3, storage: biased },
  { ...plain, out: 33, grid: 'nf4', storage: levels },
]

const changes = (inputs: number): readonly Change[] => [
  { name: 'none' },
  ...[1, 2, 3].map((step): Change => ({ name: 'cut', share: 1 - step / 20 })),
  ...Array.from({ length: 20 }, (_, i): Change => {
    const factors = randomWeights(1, inputs, i + 1, 1).map(factor => 1.25 + factor)
    return { name: 'scale', factors }
  }),
]

const cut = (weights: Float32Array, size: number, share: number): Float32Array =>
  weights.map((weight, i) => {
    const start = i - (i % size)
    const bound = Math.fround(Math.max(...weights.subarray(start, start + size).map(Math.abs)) * share)
    return Math.max(-bound, Math.min(bound, weight))
  })

describe.each(cases)('errors of rounding to nearest: $out × $in, $grid $bits, $group, $dtype', setting => {
  const { out, in: inputs, dtype, grid, bits, symmetric, storage, group } = setting
  const source = fromFloat32(randomWeights(out, inputs, 7), dtype)
  const weights = toFloat32(source, dtype)
  const job: LinearJob = {
    ...{ name: 'w', out, in: inputs, dtype, source, grid: gridNamed(grid, bits, symmetric) },
    ...{ clip: 'minmax', group, storage, rounding: { name: 'nearest' } },
  }
  const size = group === 'channel' ? inputs : Number(group)

  it('are those of the codes of each change by itself, to the bit', async () => {
    const rounded = async (values: Float32Array, given?: LinearJob['given']) =>
      (await quantizeLinear(pools[0], { ...job, ...matrixOfValues('w', values, out, inputs), given })).quantized
    const deltaOf = async (change: Change): Promise<Float32Array> => {
      const factors = change.name === 'scale' ? change.factors : undefined
      const values = factors ? multiplyColumns(weights.slice(), factors) : weights
      const given = change.name === 'cut' ? await rounded(cut(weights, size, change.share)) : undefined
      const decoded = dequantize(await rounded(values, given))
      const delta = values.map((value, i) => value - decoded[i])
      return factors
        ? multiplyColumns(
            delta,
            factors.map(factor => 1 / factor),
          )
        : delta
    }
    const expected = await Promise.all(changes(inputs).map(deltaOf))
    for (const pool of pools) {
      const found = expected.map(() => new Float32Array(out * inputs).fill(Number.NaN))
      await nearestErrors(pool, job, changes(inputs), async ({ delta, firstChange, firstRow, rows }) => {
        for (let i = 0; i < delta.length / rows / inputs; i++)
          found[firstChange + i].set(delta.subarray(i * rows * inputs, (i + 1) * rows * inputs), firstRow * inputs)
      })
      expect(found).toEqual(expected)
      expect(pool.held()).toBe(0)
    }
  })

  it('name a weight that is not finite, and give the memory back', async () => {
    const broken = weights.slice()
    broken[broken.length - 2] = Number.NaN
    const wrong = { ...job, ...matrixOfValues('w', broken, out, inputs) }
    await expect(nearestErrors(pools[1], wrong, changes(inputs), async () => {})).rejects.toThrow(
      `w: row ${out - 1}, column ${inputs - 2} is NaN`,
    )
    expect(pools[1].held()).toBe(0)
  })
})

it('end with what a visitor throws', async () => {
  const weights = randomWeights(600, 16, 3)
  const job: LinearJob = {
    ...matrixOfValues('w', weights, 600, 16),
    ...{ grid: gridNamed('int', 4, false), clip: 'minmax', group: 16, storage: f16Storage },
    rounding: { name: 'nearest' },
  }
  const visit = (): Promise<void> => Promise.reject(new Error('enough'))
  await expect(nearestErrors(pools[1], job, changes(16), visit)).rejects.toThrow('enough')
  expect(pools[1].held()).toBe(0)
})
