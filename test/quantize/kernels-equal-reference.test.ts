import fc from 'fast-check'
import { afterAll, describe, expect, it } from 'vitest'
import type { ActOrder, Bits, ClipName, Group, ScaleDtype, Storage } from '../../src/contracts.ts'
import type { PanelDtype } from '../../src/engine/kernel/panels.ts'
import { createKernels } from '../../src/engine/kernel/pool.ts'
import { divisorsOf } from '../../src/quantize/granularity.ts'
import {
  byKernels,
  byReference,
  type Feedback,
  f16Storage,
  randomFactor,
  randomWeights,
  type Setting,
  shuffled,
} from '../helpers/linears.ts'

const pools = await Promise.all([1, 2, 4].map(createKernels))
afterAll(() => Promise.all(pools.map(pool => pool.close())))

const f16Setting = {
  bits: 4,
  symmetric: false,
  clip: 'minmax',
  dtype: 'F32',
  storage: f16Storage,
} as const satisfies Partial<Setting>

const equalOnAllPools = async (W: Float32Array, setting: Setting, feedback?: Feedback): Promise<void> => {
  const expected = byReference(W, setting, feedback)
  for (const pool of pools) expect(await byKernels(pool, W, setting, feedback)).toEqual(expected)
}

/** From plain weights to what loops over lanes and ties get wrong. */
const shapings = {
  plain: weight => weight,
  'full of ties': weight => Math.round(weight * 8) / 8,
  'mostly zero': (weight, i) => (i % 3 ? 0 : weight),
  constant: () => 0.75,
  'of one sign': weight => Math.abs(weight),
  'of many magnitudes, float16 subnormals among them': (weight, i) => weight * 2 ** -(i % 24),
} satisfies Record<string, (weight: number, i: number) => number>

const storages: readonly Storage[] = (['F16', 'BF16', 'F32'] as const).flatMap(scaleDtype =>
  [0, 1].map(lowest => ({ ...f16Storage, scaleDtype, zeroRange: [lowest, 255] as const })),
)

/** Any shape, grid, clip, group, dtype and storage, and any order of the sweep. */
const linears = fc
  .record({
    out: fc.oneof(fc.constantFrom(1, 5, 33, 48, 49, 172), fc.integer({ min: 1, max: 200 })),
    in: fc.oneof(fc.constantFrom(6, 40, 96), fc.integer({ min: 1, max: 150 })),
    bits: fc.constantFrom<Bits>(2, 3, 4, 8),
    symmetric: fc.boolean(),
    clip: fc.constantFrom<ClipName>('minmax', 'mse'),
    dtype: fc.constantFrom<PanelDtype>('F32', 'F16', 'BF16'),
    storage: fc.constantFrom(...storages),
    groupChoice: fc.nat(),
    actOrder: fc.constantFrom<ActOrder | 'nearest'>('nearest', 'none', 'static', 'g_idx'),
    weighted: fc.boolean(),
    shaping: fc.constantFrom(...(Object.keys(shapings) as (keyof typeof shapings)[])),
    seed: fc.integer({ min: 1, max: 1e6 }),
  })
  .map(({ groupChoice, actOrder, weighted, shaping, seed, ...rest }) => {
    const n = rest.in
    const groups: Group[] = [...divisorsOf(n), ...(actOrder === 'g_idx' ? [] : (['channel', 'tensor'] as const))]
    const weighting = weighted ? randomWeights(1, n, seed + 1, 50).map(w => Math.max(w, 0)) : undefined
    const order = actOrder === 'none' ? undefined : shuffled(n, seed + 2)
    return {
      W: randomWeights(rest.out, n, seed, 1).map(shapings[shaping]),
      setting: { ...rest, group: groups[groupChoice % groups.length], weighting } satisfies Setting,
      feedback: actOrder === 'nearest' ? undefined : { U: randomFactor(n, seed + 3), actOrder, order },
    }
  })

const levels = (scaleDtype: ScaleDtype, second?: Storage['second']): Storage => ({
  decode: 'levels',
  scaleDtype,
  second,
})

/** Grids beside plain integers, with the storages that formats have for them. */
const gridSettings: readonly Pick<Setting, 'grid' | 'bits' | 'symmetric' | 'storage'>[] = [
  ...(['F16', 'BF16', 'F32'] as const).flatMap(dtype =>
    ([2, 3, 5, 6, 8] as const).flatMap(bits =>
      [true, false].map(symmetric => ({
        bits,
        symmetric,
        storage: { decode: 'biased', scaleDtype: dtype, biasDtype: dtype } as const,
      })),
    ),
  ),
  { grid: 'nf4', bits: 4, symmetric: true, storage: levels('F32') },
  { grid: 'nf4', bits: 4, symmetric: true, storage: levels('F32', 'nested') },
  { grid: 'bnb-fp4', bits: 4, symmetric: true, storage: levels('F32') },
  { grid: 'fp4', bits: 4, symmetric: true, storage: levels('F16') },
  { grid: 'fp8', bits: 8, symmetric: true, storage: levels('F32') },
  { grid: 'fp8-e5m2', bits: 8, symmetric: true, storage: levels('BF16') },
  { grid: 'nvfp4', bits: 4, symmetric: true, storage: levels('E4M3', 'global') },
  { grid: 'nvfp4', bits: 4, symmetric: true, storage: levels('E4M3') },
  { grid: 'mxfp4', bits: 4, symmetric: true, storage: levels('E8M0') },
  { grid: 'mxfp8', bits: 8, symmetric: true, storage: levels('E8M0') },
  { bits: 1, symmetric: false, storage: { ...f16Storage, zeroRange: [0, 1] } },
]

/** Any of them on any shape; blocks and tensors where one scale can serve. */
const gridLinears = fc
  .record({
    out: fc.oneof(fc.constantFrom(1, 48, 129, 257), fc.integer({ min: 1, max: 140 })),
    in: fc.oneof(fc.constantFrom(6, 129, 200), fc.integer({ min: 1, max: 100 })),
    choice: fc.constantFrom(...gridSettings),
    clip: fc.constantFrom<ClipName>('minmax', 'mse'),
    dtype: fc.constantFrom<PanelDtype>('F32', 'F16', 'BF16'),
    groupChoice: fc.nat(),
    actOrder: fc.constantFrom<ActOrder | 'nearest'>('nearest', 'nearest', 'none', 'static'),
    weighted: fc.boolean(),
    shared: fc.constantFrom(undefined, 3),
    shaping: fc.constantFrom(...(Object.keys(shapings) as (keyof typeof shapings)[])),
    seed: fc.integer({ min: 1, max: 1e6 }),
  })
  .map(({ choice, clip, groupChoice, actOrder, weighted, shaping, seed, ...rest }) => {
    const n = rest.in
    const oneScale = clip === 'minmax' && (choice.grid ?? 'int') !== 'int'
    const groups: Group[] = [...divisorsOf(n), 'channel', ...(oneScale ? (['tensor', 'block', 'block'] as const) : [])]
    const weighting = weighted ? randomWeights(1, n, seed + 1, 50).map(w => Math.max(w, 0)) : undefined
    const order = actOrder === 'none' ? undefined : shuffled(n, seed + 2)
    return {
      W: randomWeights(rest.out, n, seed, 1).map(shapings[shaping]),
      setting: { ...rest, ...choice, clip, group: groups[groupChoice % groups.length], weighting } satisfies Setting,
      feedback: actOrder === 'nearest' ? undefined : { U: randomFactor(n, seed + 3), actOrder, order },
    }
  })

describe('the kernels give the bits of the reference, on 1, 2 and 4 threads', () => {
  it('for any linear', async () => {
    await fc.assert(
      fc.asyncProperty(linears, ({ W, setting, feedback }) => equalOnAllPools(W, setting, feedback)),
      { numRuns: 60 },
    )
  })

  it('for any grid and storage', async () => {
    await fc.assert(
      fc.asyncProperty(gridLinears, ({ W, setting, feedback }) => equalOnAllPools(W, setting, feedback)),
      { numRuns: 150 },
    )
  })

  /** The sweep goes by blocks of 128 columns or of a group, and over at most 2048 earlier errors at a time. */
  it.each([
    [129, 'channel', 'static'],
    [300, 'tensor', 'static'],
    [301, 'channel', 'none'],
    [384, 128, 'g_idx'],
    [390, 65, 'none'],
    [2300, 'channel', 'static'],
    [2300, 115, 'g_idx'],
  ] as const)('for rows longer than a block: %i inputs, group %s, act-order %s', async (n, group, actOrder) => {
    const setting = { ...f16Setting, out: n > 2000 ? 3 : 50, in: n, group }
    const order = actOrder === 'none' ? undefined : shuffled(n, 5)
    await equalOnAllPools(randomWeights(setting.out, n, n), setting, { U: randomFactor(n, 3), actOrder, order })
  })

  it('for more panels than fit into one chunk', async () => {
    const setting = { ...f16Setting, out: 48 * 17 + 5, in: 24, group: 8 }
    const W = randomWeights(setting.out, setting.in, 8)
    for (const feedback of [undefined, { U: randomFactor(24, 3), actOrder: 'none' as const }])
      await equalOnAllPools(W, setting, feedback)
    await equalOnAllPools(W, { ...setting, group: 'tensor', clip: 'mse' })
  })

  it('when the sweep diverges', async () => {
    const setting = { ...f16Setting, out: 3, in: 32, group: 8, storage: { ...f16Storage, scaleDtype: 'F32' as const } }
    const U = randomFactor(32, 3).map(value => 1e12 * value)
    for (let i = 0; i < 32; i++) U[i * 33] = 1e-3
    const W = randomWeights(3, 32, 9)
    expect(Number.isFinite(byReference(W, setting, { U, actOrder: 'none' }).loss)).toBe(false)
    await equalOnAllPools(W, setting, { U, actOrder: 'none' })
  })
})
