/** Every file operation of a run failed once: a clean error each time, and nothing left behind but a whole output once it is published. */
import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.ts'
import { readJsonObject } from '../../src/checkpoint/read-json.ts'
import { QuantizeError } from '../../src/errors.ts'
import { nodeClock } from '../../src/io/clock.ts'
import { type Files, nodeFiles } from '../../src/io/files.ts'
import { buildModel } from '../../src/model/graph.ts'
import { runPlan } from '../../src/pipeline.ts'
import { planRun } from '../../src/plan.ts'
import { resolveRecipe } from '../../src/recipe.ts'
import { openDescriptors } from '../checkpoint/support.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
const source = join(folder, 'model')
fs.cpSync(new URL('../../fixtures/transformers/llama-mha', import.meta.url), source, { recursive: true })
fs.copyFileSync(new URL('../../fixtures/tokenizer/golden.json', import.meta.url), join(source, 'notes.json'))

const faults = ['full disk', 'device error', 'short read'] as const
type Fault = (typeof faults)[number]

/** Clearing up after a failure must work for the promise to hold; the system may fail that too, but then nobody can help. */
const spared: readonly (keyof Files)[] = ['close', 'remove']

/** The files of the machine, whose n-th call fails; names the calls. */
const failing = (n: number, fault: Fault) => {
  const calls: string[] = []
  const wrap = (name: keyof Files, real: (...args: never[]) => unknown) => {
    if (spared.includes(name)) return real
    return (...args: never[]) => {
      if (calls.push(name) - 1 !== n) return real(...args)
      if (fault === 'short read') return name === 'readAt' ? 0 : real(...args)
      throw new QuantizeError(fault === 'full disk' ? 'exhausted' : 'bad-input', `${name}: ${fault}`)
    }
  }
  const files = Object.fromEntries(
    Object.entries(nodeFiles).map(([name, real]) => [name, wrap(name as keyof Files, real as never)]),
  ) as unknown as Files
  return { files, calls }
}

const run = async (files: Files, output: string): Promise<void> => {
  const checkpoint = openCheckpoint(join(source, 'model.safetensors'), files)
  try {
    const config = readJsonObject(join(source, 'config.json'), files)!
    const recipe = resolveRecipe({ method: 'rtn', group: 'channel' })
    const plan = planRun(checkpoint, buildModel(config, checkpoint.tensors, 'config.json'), recipe)
    const context = { files, clock: nodeClock, threads: 1, progress: () => {}, signal: new AbortController().signal }
    await runPlan(plan, checkpoint, config, output, false, context)
  } finally {
    checkpoint.close()
  }
}

describe.each(faults)('a %s', fault => {
  it('at any file operation of a run ends it with one clear error and nothing half done left behind', async () => {
    const whole = failing(-1, fault)
    const complete = join(folder, `whole ${fault}`)
    await run(whole.files, complete)
    const total = whole.calls.length
    // the last renaming gives the output its name; after it only the folder above is synced
    const published = whole.calls.lastIndexOf('rename')
    expect(published).toBe(total - 2)
    expect(total).toBeGreaterThan(100)
    const descriptors = openDescriptors()
    let failed = 0
    // all would take a minute: each third, another third for each fault
    for (let n = faults.indexOf(fault); n < total; n += faults.length) {
      const output = join(folder, `${fault} ${n}`)
      const error = await run(failing(n, fault).files, output).then(
        () => undefined,
        (thrown: unknown) => thrown,
      )
      if (error === undefined) continue // e.g. a short read cannot happen to a rename
      failed++
      expect(error, `call ${n}: ${String(error)}`).toBeInstanceOf(QuantizeError)
      expect((error as Error).message).not.toMatch(/\p{Cc}/u)
      expect(fs.existsSync(output), `call ${n} left an output`).toBe(n > published)
      if (n > published) expect(fs.readdirSync(output)).toEqual(fs.readdirSync(complete))
      expect(fs.existsSync(`${output}.partial`), `call ${n} left a partial output`).toBe(false)
    }
    expect(failed).toBeGreaterThan(fault === 'short read' ? 5 : total / 4)
    expect(openDescriptors()).toBe(descriptors)
  })
})
