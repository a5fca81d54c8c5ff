import { afterAll, describe, expect, it } from 'vitest'
import { type Call, createKernels } from '../../../src/engine/kernel/pool.ts'

const kernels = await createKernels(2)
afterAll(() => kernels.close())

/** Row ranges of one column of 48 values. */
const rangesOf = (panel: number, to: number): Call => ['panelRange', panel, 1, to, to + 192]

describe('the pool', () => {
  it('runs kernels over the memory that it shares', async () => {
    const region = kernels.allocate(3 * 192)
    region.f32().set(Array.from({ length: 48 }, (_, row) => row - 20))
    expect(await kernels.run([rangesOf(region.address, region.address + 192)])).toEqual([undefined])
    const [lows, highs] = [region.f32().subarray(48, 96), region.f32().subarray(96)]
    expect([...lows]).toEqual(Array.from({ length: 48 }, (_, row) => Math.min(0, row - 20)))
    expect([...highs]).toEqual(Array.from({ length: 48 }, (_, row) => Math.max(0, row - 20)))
    region.free()
  })

  it('runs the calls of a list one after the other, and many lists at once', async () => {
    const lists = Array.from({ length: 40 }, (_, i) => {
      const region = kernels.allocate(4 * 192)
      region.f32().fill(i + 1, 0, 48)
      const [value, high] = [region.address, region.address + 384]
      return { region, calls: [rangesOf(value, high - 192), rangesOf(high, high)] }
    })
    const results = await Promise.all(lists.map(({ calls }) => kernels.run(calls)))
    expect(results).toEqual(lists.map(() => [undefined, undefined]))
    // the second call reads what the first wrote: the largest value is still it
    for (const [i, { region }] of lists.entries()) {
      expect([...new Set(region.f32().subarray(144))]).toEqual([i + 1])
      region.free()
    }
  })

  it('returns nothing for no calls', async () => expect(await kernels.run([])).toEqual([]))

  it.each([
    ['a kernel that does not exist', ['noSuchKernel', 0] as unknown as Call],
    ['an address outside the memory', rangesOf(2 ** 31, 0)],
  ])('fails rather than hangs for %s, and works on', async (_, bad) => {
    const region = kernels.allocate(3 * 192)
    const good = rangesOf(region.address, region.address + 192)
    for (let i = 0; i < 2 * kernels.threads; i++) {
      const [failed, after] = await Promise.allSettled([kernels.run([good, bad, good]), kernels.run([good])])
      expect([failed.status, after.status]).toEqual(['rejected', 'fulfilled'])
      expect(failed).toHaveProperty('reason', expect.any(Error))
    }
    region.free()
  })

  it('leaves no run unsettled when it is closed', async () => {
    const closed = await createKernels(2)
    const region = closed.allocate(3 * 192)
    const long = new Array(20_000).fill(rangesOf(region.address, region.address + 192))
    const runs = Array.from({ length: 6 }, () => closed.run(long))
    const [settled] = await Promise.all([Promise.allSettled(runs), closed.close()])
    expect(settled.length).toBe(6)
  })

  it('knows its number of threads', () => expect(kernels.threads).toBe(2))
})
