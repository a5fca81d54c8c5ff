/** What scripts rely on: exit codes, one JSON document on stdout and nothing else, messages on stderr. */
import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { quantizeTo, quick, run, tinyLlama } from '../helpers/command-line.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
const rtn = ['--method', 'rtn', '--group', '64'] as const

describe('quantize', () => {
  it('writes one JSON document to stdout, all else to stderr', async () => {
    const output = join(folder, 'json')
    const { code, stdout, stderr } = await run(tinyLlama, ...rtn, '-o', output, '--json')
    expect(code).toBe(0)
    const document = JSON.parse(stdout)
    expect(document.output).toBe(output)
    expect(document.report.linears).toHaveLength(28)
    expect(document.report).toEqual(JSON.parse(fs.readFileSync(join(output, 'quantize-report.json'), 'utf8')))
    expect(stderr).toContain('written to')
  })

  it('prints the table to stderr, with every option that matters said once', async () => {
    const { stdout, stderr } = await run(tinyLlama, '--group', '64', ...quick, '-o', join(folder, 'table'))
    expect(stdout).toBe('')
    for (const part of ['q_proj', 'down_proj', 'SQNR dB', 'out. error', 'bits a weight']) expect(stderr).toContain(part)
  })

  it('writes a copy of the report where told', async () => {
    const report = join(folder, 'copy.json')
    await quantizeTo(join(folder, 'copied'), tinyLlama, ...rtn, '--report', report)
    expect(fs.readFileSync(report)).toEqual(fs.readFileSync(join(folder, 'copied', 'quantize-report.json')))
  })

  it.each([
    [2, ['--bits', '9'], /--bits/],
    [2, ['--metod', 'rtn'], /--method/],
    [2, ['--method', 'rtn', '--samples', '4'], /--samples/],
    [3, ['/nowhere/model.safetensors'], /nowhere/],
    [4, ['--group', '100'], /--group/],
  ])('ends with %i for %o, one line on stderr and the same in JSON', async (exitCode, args, message) => {
    const model = args[0].startsWith('/') ? [] : [tinyLlama]
    const { code, stdout, stderr } = await run(...model, ...args, '--json', '-o', join(folder, 'never'))
    expect(code).toBe(exitCode)
    expect(stderr.trim().split('\n').at(-1)).toMatch(message)
    expect(JSON.parse(stdout).error).toMatchObject({ exitCode })
    expect(fs.existsSync(join(folder, 'never'))).toBe(false)
  })
})

describe('inspect', () => {
  it('describes a plain folder', async () => {
    const { code, stdout } = await run('inspect', tinyLlama, '--json')
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({
      modelType: 'llama',
      elements: 918_656,
      bytes: 1_837_312,
      quantization: null,
    })
  })

  it('describes a lone file', async () => {
    const file = join(folder, 'lone.safetensors')
    fs.copyFileSync(join(tinyLlama, 'model.safetensors'), file)
    const { stdout } = await run('inspect', file)
    expect(stdout).toContain('model.layers.3.mlp.down_proj.weight')
    expect(stdout).toContain('BF16')
  })

  it('tells the scheme of a quantized folder, and its bits a weight from the bytes on disk', async () => {
    const output = join(folder, 'inspected')
    const { totals } = await quantizeTo(output, tinyLlama, ...rtn)
    const { quantization } = JSON.parse((await run('inspect', output, '--json')).stdout)
    expect(quantization).toMatchObject({ format: 'compressed-tensors', linears: 28, weights: 786_432 })
    expect(quantization.bitsPerWeight).toBeCloseTo(totals.bitsPerWeight, 10)
    expect(quantization.schemes).toEqual([{ grid: 'int', bits: 4, symmetric: true, group: '64', linears: 28 }])
  })
})
