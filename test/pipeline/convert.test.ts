/** Conversions of quantized checkpoints: codes kept where the formats agree, an error that says what rounding would cost where not. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { loadModel } from '../../src/evaluate/load-model.ts'
import { nodeFiles } from '../../src/io/files.ts'
import { quantizeTo, readConfig, readReport, run, tinyLlama } from '../helpers/command-line.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
let outputs = 0
const fresh = (): string => join(folder, `out${outputs++}`)

/** tiny-llama, rounded to nearest. */
const quantized = async (...options: string[]): Promise<string> => {
  const output = fresh()
  await quantizeTo(output, tinyLlama, '--method', 'rtn', '--group', '32', '--format', 'gptq', ...options)
  return output
}

const converted = async (source: string, ...options: string[]): Promise<string> => {
  const output = fresh()
  const { code, stderr } = await run('convert', source, '-o', output, ...options)
  expect(stderr).not.toMatch(/^error/m)
  expect(code).toBe(0)
  return output
}

/** The weights of a module, decoded. */
const weightsOf = (path: string, module: string): Float32Array => {
  const { read, checkpoint } = loadModel(path, nodeFiles)
  try {
    return read({ tensor: `${module}.weight` })
  } finally {
    checkpoint.close()
  }
}

const module = 'model.layers.1.mlp.up_proj'

describe('convert', () => {
  it('keeps the codes where the formats agree: no error, and the same file as a run into that format', async () => {
    const [v1, v2] = [await quantized(), await quantized('--format', 'gptq:v2')]
    const output = await converted(v1, '--format', 'gptq:v2')
    const report = readReport(output)
    expect(report.linears.map(({ method, maxAbsError, sqnrDb }) => [method, maxAbsError, sqnrDb])).toEqual(
      report.linears.map(() => ['repack', 0, null]),
    )
    expect(report.outputs['model.safetensors'].sha256).toBe(readReport(v2).outputs['model.safetensors'].sha256)
    expect(weightsOf(output, module)).toEqual(weightsOf(v1, module))
    expect(readConfig(output).quantization_config).toMatchObject({ checkpoint_format: 'gptq_v2', bits: 4 })
  })

  it('stops where the format does not hold the values, with the error that rounding adds; --lossy accepts it', async () => {
    const source = await quantized('--format', 'gptq:v2', '--asym', '--bits', '2', '--group', '8') // zero points of 0, which v1 cannot say
    const refused = fresh()
    const { code, stderr } = await run('convert', source, '--format', 'gptq', '-o', refused)
    expect(code).toBe(4)
    expect(existsSync(`${refused}.partial`), 'something to go on with').toBe(false)
    expect(stderr).toMatch(
      /does not hold its values exactly; rounding them again adds an error of [\d.e-]+ at most \(SQNR [\d.]+ dB\); --lossy accepts/,
    )
    const report = readReport(await converted(source, '--format', 'gptq', '--lossy'))
    const rounded = report.linears.filter(({ method }) => method === 'rtn')
    expect(rounded.length).toBeGreaterThan(0)
    expect(rounded.every(({ fallback, maxAbsError }) => fallback?.includes('exactly') && maxAbsError > 0)).toBe(true)
  })

  it('keeps biases in a format of any storage, and decodes an embedding where there is no place for one', async () => {
    const source = fresh()
    await quantizeTo(source, tinyLlama, '--method', 'rtn', '--format', 'mlx')
    const codebook = await converted(source, '--format', 'codebook')
    expect(readReport(codebook).linears.every(({ maxAbsError }) => maxAbsError === 0)).toBe(true)
    const embedding = 'model.embed_tokens'
    for (const name of [module, embedding]) expect(weightsOf(codebook, name)).toEqual(weightsOf(source, name))
    const other = await converted(source, '--format', 'hqq', '--lossy')
    const report = readReport(other)
    expect(report.linears.map(({ name }) => name)).not.toContain(embedding)
    expect(report.kept.find(({ name }) => name === `${embedding}.weight`)?.reason).toMatch(
      /^decoded: format hqq has no place for a quantized embedding/,
    )
    expect(weightsOf(other, embedding)).toEqual(weightsOf(source, embedding))
  })

  it('is for quantized checkpoints', async () => {
    const { code, stderr } = await run('convert', tinyLlama, '--format', 'gptq', '-o', fresh())
    expect(code).toBe(4)
    expect(stderr).toMatch(/is not quantized/)
  })
})

describe('a quantized source', () => {
  it('is quantized again from its decoded weights, and the report says so', async () => {
    const source = await quantized('--bits', '8')
    const output = fresh()
    const report = await quantizeTo(output, source, '--method', 'rtn', '--group', '32', '--format', 'gptq')
    expect(report.warnings.join()).toMatch(/the source is quantized already \(gptq\)/)
    expect(report.source.bytes).toBeLessThan(report.totals.weights * 2)
    const [before, after] = [weightsOf(source, module), weightsOf(output, module)]
    const noise = before.reduce((sum, weight, i) => sum + (weight - after[i]) ** 2, 0)
    const linear = report.linears.find(({ name }) => name === module)!
    expect(linear.weightMse).toBeCloseTo(noise / before.length, 9)
    expect(linear.bits).toBe(4)
  })
})
