import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { makeOutlierModel } from '../../scripts/make-outlier-model.ts'
import { quantizeTo, run, tinyLlama } from '../helpers/command-line.ts'
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

/** LLM.int8() (arXiv 2208.07339, table 1): its rows as weights and activations (docs/results.md has longer texts). */
const rows = {
  absmax: ['tensor', 'sym', 'int8:tensor'],
  zeropoint: ['tensor', 'asym', 'int8:asym,tensor'],
  rowWise: ['tensor', 'sym', 'int8'],
  vectorWise: ['channel', 'sym', 'int8'],
  zeropointVectorWise: ['channel', 'asym', 'int8:asym'],
  rowWiseDecomposed: ['tensor', 'sym', 'int8', '--outliers', '6.0'],
  vectorWiseDecomposed: ['channel', 'sym', 'int8', '--outliers', '6.0'],
  zeropointVectorWiseDecomposed: ['channel', 'asym', 'int8:asym', '--outliers', '6.0'],
} as const

describe("LLM.int8()'s eight rows on it", () => {
  /** Mean KL divergence from the model in full precision. */
  const kl = async (group: string, sides: string, ...activations: readonly string[]): Promise<number> => {
    const model = join(folder, `w8-${group}-${sides}`)
    const text = ['--text', join(tinyLlama, 'held.txt'), '--seq-len', '128', '--windows', '8']
    const given = activations.length > 0 ? ['--activations', ...activations] : []
    const { stdout } = await run('eval', model, ...text, '--reference', outliers, ...given, '--json')
    return JSON.parse(stdout).reference.meanKl
  }

  beforeAll(async () => {
    for (const group of ['tensor', 'channel'])
      for (const sides of ['sym', 'asym']) {
        const w8 = ['--method', 'rtn', '--bits', '8', '--group', group, `--${sides}`, '--format', 'codebook']
        await quantizeTo(join(folder, `w8-${group}-${sides}`), outliers, ...w8)
      }
  })

  it('rank as in the paper; with decomposition little but the loss of the weights is left, and zero points gain nothing', async () => {
    const lost = {} as Record<keyof typeof rows, number>
    for (const [name, [group, sides, ...activations]] of Object.entries(rows))
      lost[name as keyof typeof rows] = await kl(group, sides, ...activations)
    const ranked = ['absmax', 'zeropoint', 'rowWise', 'vectorWise', 'zeropointVectorWise', 'rowWiseDecomposed'] as const
    for (const [i, name] of ranked.entries()) if (i > 0) expect(lost[name]).toBeLessThan(lost[ranked[i - 1]])
    expect(lost.vectorWiseDecomposed).toBeLessThan(lost.rowWiseDecomposed)
    const [gain, gainDecomposed] = [
      lost.vectorWise - lost.zeropointVectorWise,
      lost.vectorWiseDecomposed - lost.zeropointVectorWiseDecomposed,
    ]
    expect(Math.abs(gainDecomposed)).toBeLessThan(0.1 * gain)
    expect(lost.rowWiseDecomposed).toBeLessThan(1.25 * (await kl('tensor', 'sym')))
    expect(lost.vectorWiseDecomposed).toBeLessThan(1.25 * (await kl('channel', 'sym')))
    expect(lost.zeropointVectorWiseDecomposed).toBeLessThan(1.25 * (await kl('channel', 'asym')))
  })
})
