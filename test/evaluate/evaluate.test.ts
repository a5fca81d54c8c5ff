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

const few = ['--seq-len', '64', '--windows', '4'] as const

describe('eval --activations', () => {
  it('loses the more the fewer bits and the larger what shares a scale; and says what it did', async () => {
    const kl = async (...args: readonly string[]): Promise<number> => {
      const { result } = await evaluate(tinyLlama, ...few, '--reference', tinyLlama, ...args)
      return result.reference.meanKl
    }
    const int8 = await kl('--activations', 'int8')
    expect(int8).toBeGreaterThan(0)
    expect(await kl('--activations', 'int8:tensor')).toBeGreaterThan(int8)
    const int4 = await kl('--activations', 'int4')
    expect(int4).toBeGreaterThan(10 * int8)
    const groups = await kl('--activations', 'int4:group=16')
    expect(groups).toBeLessThan(int4)
    for (const grid of ['nvfp4', 'mxfp4']) {
      expect(await kl('--activations', grid)).toBeLessThan(int4)
      expect(await kl('--activations', grid)).toBeGreaterThan(int8)
    }
    const { result, stderr } = await evaluate(tinyLlama, ...few, '--activations', 'int8:asym,tensor')
    expect(result).toMatchObject({ activations: ['int8:asym,tensor'], warnings: [] })
    expect(stderr).not.toContain('warning')
    const text = await run('eval', tinyLlama, '--text', held, ...few, '--activations', 'int8')
    expect(text.stdout).toContain('\nactivations int8:sym,token\n')
  })

  it('takes the place of what the checkpoint declares, with a warning; none switches it off', async () => {
    const output = join(folder, 'declared')
    await quantizeTo(output, tinyLlama, '--method', 'rtn', '--bits', '8', '--activations', 'int8')
    const declared = await evaluate(output, ...few)
    expect(declared.result).toMatchObject({ activations: ['int8:sym,token'], warnings: [] })
    const again = await evaluate(output, ...few, '--activations', 'int8')
    expect(again.result).toEqual(declared.result)
    const coarse = await evaluate(output, ...few, '--activations', 'int4:tensor')
    const warning =
      'activations are int8:sym,token by the checkpoint or its runtime; --activations evaluates int4:sym,tensor'
    expect(coarse.result).toMatchObject({ activations: ['int4:sym,tensor'], warnings: [warning] })
    expect(coarse.stderr).toContain(`warning: ${warning}`)
    expect(coarse.result.perplexity).toBeGreaterThan(declared.result.perplexity)
    const none = await evaluate(output, ...few, '--activations', 'none')
    expect(none.result.activations).toEqual([])
    expect(none.result.warnings[0]).toMatch(/--activations none leaves them as they are/)
    expect(none.result.perplexity).not.toBe(declared.result.perplexity)
  })

  it('leaves the head as its runtime computes it', async () => {
    const output = join(folder, 'gguf')
    await quantizeTo(output, tinyLlama, '--method', 'rtn', '--format', 'gguf:q8_0')
    const own = 'int8:sym,group=32,reach=127'
    expect((await evaluate(output, ...few)).result.activations).toEqual([own])
    const { result } = await evaluate(output, ...few, '--activations', 'fp8')
    expect(result.activations).toEqual(['fp8:sym,token', `${own} (head)`])
    expect((await evaluate(output, ...few, '--activations', 'none')).result.activations).toEqual([])
  })

  it('splits outliers off, at a threshold that features reach', async () => {
    const plain = await evaluate(tinyLlama, ...few)
    const at = async (threshold: string) => {
      const { result } = await evaluate(tinyLlama, ...few, '--activations', 'int8:asym', '--outliers', threshold)
      return result
    }
    const all = await at('1e-9')
    expect(all.activations).toEqual(['int8:asym,token,outliers=1e-9'])
    expect(all.perplexity).toBe(plain.result.perplexity)
    expect((await at('1e9')).perplexity).not.toBe(plain.result.perplexity)
  })

  it('refuses groups that do not divide, before any work', async () => {
    const { code, stderr } = await evaluate(tinyLlama, ...few, '--activations', 'int8:group=96')
    expect(code).toBe(4)
    expect(stderr).toMatch(/q_proj: activations int8:sym,group=96: groups of 96 do not divide its 128 inputs/)
  })
})
