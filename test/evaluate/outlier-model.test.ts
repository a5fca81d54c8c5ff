import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { makeOutlierModel } from '../../scripts/make-outlier-model.ts'
import { run, tinyLlama } from '../helpers/command-line.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
const outliers = join(folder, 'outliers')

const perplexity = async (model: string, ...args: readonly string[]): Promise<number> => {
  const text = ['--text', join(tinyLlama, 'held.txt'), '--seq-len', '128', '--windows', '4']
  const { stdout } = await run('eval', model, ...text, ...args, '--json')
  return JSON.parse(stdout).perplexity
}

beforeAll(() => makeOutlierModel(tinyLlama, outliers))

describe('a model with outliers (scripts/make-outlier-model.ts)', () => {
  it('computes the same function, to the bit', async () =>
    expect(await perplexity(outliers)).toBe(await perplexity(tinyLlama)))

  it.each(['int8', 'int8:tensor', 'int8:asym,tensor'])('loses much more by %s, unless outliers stay', async scheme => {
    const plain = await perplexity(tinyLlama)
    const lost = async (model: string, ...args: readonly string[]): Promise<number> =>
      (await perplexity(model, '--activations', scheme, ...args)) - plain
    const much = await lost(outliers)
    expect(much).toBeGreaterThan(3 * (await lost(tinyLlama)))
    expect(Math.abs(await lost(outliers, '--outliers', '6.0'))).toBeLessThan(0.1 * much)
  })
})
