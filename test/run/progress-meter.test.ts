/** The work that a run tells beforehand is the work that it does. */
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { nodeFiles } from '../../src/io/files.ts'
import type { RecipeRequest } from '../../src/recipe.ts'
import { runOnce, writeSmallModel } from '../helpers/faults.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
const model = join(folder, 'model')
beforeAll(() => writeSmallModel(model))

const windows = { samples: 4, seqLen: 32 }

describe('a run', () => {
  it.each<[string, RecipeRequest]>([
    ['rtn', { method: 'rtn' }],
    ['gptq', { method: 'gptq', ...windows }],
    ['gptq behind a transform', { method: 'gptq', transform: 'awq', ...windows }],
    ['rtn behind a transform', { method: 'rtn', transform: 'smoothquant', ...windows }],
  ])('by %s ends when its work is done', async (name, request) => {
    const told = { total: 0, done: [] as number[] }
    await runOnce(model, request, nodeFiles, join(folder, name), true, event => {
      if (event.kind === 'start') told.total = event.totalWork
      if (event.kind === 'work') told.done.push(event.done)
    })
    const last = told.done.at(-1)!
    expect(last).toBe(Math.max(...told.done))
    expect(last / told.total).toBeLessThan(1 + 1e-9)
    expect(last / told.total).toBeGreaterThan(0.999)
  })
})
