import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { quantizeTo, quick, run, tinyLlama } from '../helpers/command-line.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
const held = join(tinyLlama, 'held.txt')
const evaluate = async (model: string, ...args: readonly string[]) => {
  const { code, stdout, stderr } = await run('eval', model, '--text', held, ...args, '--json')
  return { code, stderr, result: JSON.parse(stdout) }
}

describe('eval', () => {
  it("gives transformers' perplexity of the fixture: 27.98 (8 windows of 256, tokens 2 to 256 of each scored)", async () => {
    const { result } = await evaluate(tinyLlama, '--seq-len', '256', '--windows', '8')
    expect(Math.abs(result.perplexity / 27.98 - 1)).toBeLessThan(0.001)
    expect(result).toMatchObject({ tokens: 8 * 255, windows: 8, seqLen: 256, format: null })
    expect(Math.exp(result.meanNll)).toBeCloseTo(result.perplexity, 10)
  })

  it('finds no difference between a model and itself', async () => {
    const { result } = await evaluate(tinyLlama, '--seq-len', '64', '--windows', '4', '--reference', tinyLlama)
    expect(result.reference.meanKl).toBeCloseTo(0, 12)
    expect(result.reference.topAgreement).toBe(1)
    expect(result.reference.perplexity).toBe(result.perplexity)
  })

  it('finds the loss of a quantized model, the larger the fewer bits', async () => {
    const kl: number[] = []
    for (const bits of ['8', '4', '2']) {
      const output = join(folder, `bits${bits}`)
      await quantizeTo(output, tinyLlama, '--bits', bits, '--group', '64', ...quick)
      const { result } = await evaluate(output, '--seq-len', '64', '--windows', '4', '--reference', tinyLlama)
      expect(result.format).toBe('gptq')
      kl.push(result.reference.meanKl)
    }
    expect(kl[0]).toBeGreaterThan(0)
    expect(kl[0]).toBeLessThan(0.01)
    expect(kl[1]).toBeGreaterThan(3 * kl[0])
    expect(kl[2]).toBeGreaterThan(3 * kl[1])
  })

  it('gives the same number again', async () => {
    const output = join(folder, 'bits8v2')
    await quantizeTo(output, tinyLlama, '--bits', '8', '--group', '32', '--format', 'gptq:v2', ...quick)
    const [first, again] = [await evaluate(output, '--seq-len', '64'), await evaluate(output, '--seq-len', '64')]
    expect(again.result).toEqual(first.result)
  })

  it('says that a text is too short for one window', async () => {
    const short = join(folder, 'short.txt')
    fs.writeFileSync(short, 'A few words.')
    const { code, result } = await run('eval', tinyLlama, '--text', short, '--json').then(({ code, stdout }) => ({
      code,
      result: JSON.parse(stdout),
    }))
    expect(code).toBe(3)
    expect(result.error.message).toMatch(/has \d+ tokens, fewer than one window of 512/)
  })

  it('refuses a reference with another vocabulary', async () => {
    const other = join(folder, 'other')
    fs.cpSync(join(tinyLlama, '../transformers/llama-mha'), other, { recursive: true })
    const { code, stderr } = await evaluate(tinyLlama, '--seq-len', '32', '--reference', other)
    expect(code).not.toBe(0)
    expect(stderr).toMatch(/vocabulary|tokens/)
  })
})
