import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { planMemory } from '../src/memory.ts'
import { planRun } from '../src/plan.ts'
import { resolveRecipe } from '../src/recipe.ts'
import { hashesOf, quantizeTo, quick, run, tinyLlama } from './helpers/command-line.ts'
import { openFixture } from './helpers/fixture-model.ts'
import { temporaryFolder } from './helpers/temporary-folder.ts'

const folder = temporaryFolder()
const { checkpoint, model } = openFixture('tiny-llama')
afterAll(() => checkpoint.close())

const planFor = (samples: number, budget: number, threads = 2) => {
  const recipe = resolveRecipe({ method: 'gptq', group: 64, samples, seqLen: 512 })
  return planMemory(planRun(checkpoint, model, recipe), budget, threads)
}
const ample = Number.POSITIVE_INFINITY

describe('planMemory', () => {
  it('keeps all in memory where it fits, then activations in a file; only the file grows with the samples', () => {
    const [few, many] = [planFor(100, ample), planFor(10_000, ample)]
    expect([few.spillBytes, few.keepDecoded]).toEqual([0, true])
    const tokens = 9900 * 512
    expect(many.peak - few.peak).toBeGreaterThan(4 * tokens * model.hidden)
    const tight = planFor(10_000, many.least)
    expect(tight.spillBytes).toBeGreaterThan(4 * 10_000 * 512 * model.hidden)
    expect([tight.peak, tight.keepDecoded]).toEqual([many.least, false])
    expect(many.least).toBe(planFor(20_000, ample).least)
  })

  it('takes the first way that fits', () => {
    const { peak, least } = planFor(1000, ample)
    expect(planFor(1000, peak)).toEqual({ ...planFor(1000, ample), budget: peak })
    expect(planFor(1000, peak - 1).keepDecoded).toBe(false)
    expect(planFor(1000, least).peak).toBeLessThanOrEqual(least)
  })

  it('counts no activations for a method without data', () => {
    const plan = planRun(checkpoint, model, resolveRecipe({ method: 'rtn', group: 64 }))
    const memory = planMemory(plan, ample, 2)
    expect([memory.spillBytes, memory.least]).toEqual([0, memory.peak])
    expect(planMemory(plan, ample, 16).peak).toBeGreaterThan(memory.peak)
  })
})

describe('--max-memory', () => {
  it('gives the same bytes with activations in a file', async () => {
    const correct = ['--correct', '0.5', '--refine', 'cd'] // two passes
    const options = [tinyLlama, '--group', '64', '--samples', '48', '--seq-len', '64', ...correct] // two chunks
    const { memory } = JSON.parse((await run(...options, '--dry-run', '--json')).stdout)
    expect(memory.least).toBeLessThan(memory.peak)
    const whole = await quantizeTo(join(folder, 'memory'), ...options)
    const tight = ['--max-memory', `${Math.ceil(memory.least / 1000)}kB`]
    const planned = JSON.parse((await run(...options, ...tight, '--dry-run', '--json')).stdout)
    expect(planned.memory.spillBytes).toBeGreaterThan(0)
    expect((await run(...options, ...tight, '--dry-run')).stdout).toMatch(
      /memory: about .* at least\ndisk: .* for tensors, .* in a temporary file/,
    )
    const spilled = await quantizeTo(join(folder, 'file'), ...options, ...tight)
    expect(hashesOf(spilled)).toEqual(hashesOf(whole))
  })

  it('refuses less than any way of running takes, and says how much that is', async () => {
    const output = join(folder, 'none')
    const { code, stderr } = await run(tinyLlama, '--group', '64', ...quick, '--max-memory', '50MB', '-o', output)
    expect([code, stderr]).toEqual([
      5,
      expect.stringMatching(/takes about 0\.\d+ GB of memory, and 0\.0500 GB may be used/),
    ])
  })
})
