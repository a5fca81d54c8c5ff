/** GGUF in and out, through the command line. */
import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.ts'
import { readWeight } from '../../src/checkpoint/read-weight.ts'
import { fromFloat32, toFloat32 } from '../../src/dtype/convert.ts'
import { loadModel } from '../../src/evaluate/load-model.ts'
import { openGguf } from '../../src/gguf/open-gguf.ts'
import { single } from '../../src/gguf/values.ts'
import { nodeFiles } from '../../src/io/files.ts'
import { hashesOf, quantizeTo, quick, readReport, run, tinyLlama } from '../helpers/command-line.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
let outputs = 0
const fresh = (): string => join(folder, `out${outputs++}`)

const text = join(tinyLlama, 'held.txt')

/** What a run writes, and its report. */
const made = async (...args: readonly string[]) => {
  const output = fresh()
  const report = await quantizeTo(output, ...args)
  const [file] = fs.readdirSync(output).filter(name => name.endsWith('.gguf'))
  return { output, report, path: file && join(output, file) }
}

const rtn = (...args: readonly string[]) => made(tinyLlama, '--method', 'rtn', ...args)

const typesIn = (path: string): Record<string, string> => {
  const { tensors, close } = openGguf(path, nodeFiles)
  close()
  return Object.fromEntries([...tensors].map(([name, { type }]) => [name, type]))
}

const perplexity = async (model: string): Promise<number> => {
  const args = ['--text', text, '--seq-len', '64', '--windows', '4', '--json'] as const
  return JSON.parse((await run('eval', model, ...args)).stdout).perplexity
}

const refusal = async (...args: readonly string[]): Promise<string> => {
  const { code, stderr } = await run(...args, '-o', fresh())
  expect(code).toBeGreaterThan(1)
  expect(stderr.match(/^error/gm)).toHaveLength(1)
  return stderr
}

const f16 = await made('convert', tinyLlama, '--format', 'gguf:f16')

describe('convert to gguf:f16', () => {
  it('writes one file under llama.cpp\u2019s names, rows of q and k interleaved, vectors in F32', () => {
    const { tensors, metadata, close } = openGguf(f16.path, nodeFiles)
    const source = openCheckpoint(tinyLlama, nodeFiles)
    const rows = (name: string): Float32Array => readWeight(source, { tensor: name }).data
    const stored = tensors.get('blk.1.attn_k.weight')!
    const k = rows('model.layers.1.self_attn.k_proj.weight')
    const [out, inputs] = stored.shape
    const values = toFloat32(stored.read(), 'F16')
    const { num_key_value_heads: heads } = JSON.parse(fs.readFileSync(join(tinyLlama, 'config.json'), 'utf8'))
    const width = out / heads
    const row = (at: number): Float32Array => values.subarray(at * inputs, (at + 1) * inputs)
    const expected = (at: number): Float32Array =>
      toFloat32(fromFloat32(k.subarray(at * inputs, (at + 1) * inputs), 'F16'), 'F16')
    for (const at of [0, 1, 2, width - 1, width, width + 3]) {
      const within = at % width
      expect(row(at)).toEqual(expected(at - within + (within % 2) * (width / 2) + Math.floor(within / 2)))
    }
    expect(tensors.get('blk.0.attn_norm.weight')!.type).toBe('F32')
    expect(metadata.get('general.file_type')).toEqual(single('u32', 1))
    expect(metadata.get('general.name')).toEqual(single('string', 'tiny-llama'))
    expect(fs.readdirSync(f16.output).sort()).toEqual(['quantize-report.json', 'tiny-llama-F16.gguf'])
    source.close()
    close()
  })

  it('is read as the model that it is: weights, config and tokenizer', async () => {
    expect(await perplexity(f16.path)).toBeCloseTo(await perplexity(tinyLlama), 1)
    const back = await made('convert', f16.path, '--format', 'safetensors:f16')
    const { code, stdout } = await run('compare', back.output, f16.output, '--tolerance', '0', '--json')
    expect([code, JSON.parse(stdout).onlyInA, JSON.parse(stdout).onlyInB]).toEqual([0, [], []])
    expect(await perplexity(back.output)).toBe(await perplexity(f16.path))
    expect(fs.existsSync(join(back.output, 'tokenizer.json'))).toBe(true)
  })
})

describe('mixes', () => {
  it('choose types, fall back where rows have no whole blocks, and say so', async () => {
    const { path, report } = await rtn('--format', 'gguf:q4_k_m')
    const types = typesIn(path)
    expect(types['blk.0.attn_q.weight']).toBe('Q5_0')
    expect(types['token_embd.weight']).toBe('Q8_0')
    expect(types['output_norm.weight']).toBe('F32')
    expect(report.warnings.join()).toMatch(/rows of 128 weights are no whole blocks of Q4_K: Q5_0 instead/)
    expect(report.linears.every(({ method }) => method === 'rtn')).toBe(true)
  })

  it('give way to --override and --head-bits', async () => {
    const { path } = await rtn(
      '--format',
      'gguf:q4_0',
      '--override',
      '*.down_proj=q5_1',
      '--override',
      '*.0.*.o_proj=f16',
    )
    const types = typesIn(path)
    expect(types['blk.3.ffn_down.weight']).toBe('Q5_1')
    expect(types['blk.0.attn_output.weight']).toBe('F16')
    expect(types['blk.1.attn_output.weight']).toBe('Q4_0')
    const head = await rtn('--format', 'gguf:q8_0', '--head-bits', '5')
    expect(typesIn(head.path)['token_embd.weight']).toBe('Q5_0')
  })

  it.each([
    [
      ['--format', 'gguf', '--bits', '4'],
      /--bits: format gguf has types that settle it; leave it out: choose another mix/,
    ],
    [['--format', 'gguf:q4_0', '--asym'], /--sym and --asym: format gguf:q4_0 has types/],
    [['--format', 'gguf:q4_0', '--override', '*=bits:8'], /--override \*: format gguf:q4_0 has types/],
    [
      ['--format', 'gguf:q4_0', '--override', '*=q6_k'],
      /Q6_K has blocks of 256 weights, which do not divide its 128 inputs/,
    ],
    [['--format', 'gptq', '--override', '*=q6_k'], /only GGUF has types, not format gptq/],
    [['--format', 'gptq', '--imatrix', 'x'], /only GGUF's types weigh by one/],
    [['--format', 'gguf:q4_0', '--imatrix', '/nowhere/x.gguf'], /no such file/],
    [['--format', 'gguf:q4_0', '--transform', 'awq', '--imatrix', 'x'], /--imatrix has no effect with --transform awq/],
  ])('refuse %j', async (options, says) => {
    expect(await refusal(tinyLlama, '--method', 'rtn', ...options)).toMatch(says)
  })

  it('are split by --shard-size, and read again as one', async () => {
    const whole = await rtn('--format', 'gguf:q4_0')
    const { output } = await rtn('--format', 'gguf:q4_0', '--shard-size', '200KB')
    const parts = fs.readdirSync(output).filter(name => name.endsWith('.gguf'))
    expect(parts.length).toBeGreaterThan(2)
    const { code } = await run('compare', whole.output, output, '--tolerance', '0')
    expect(code).toBe(0)
    expect((await run('verify', output, '--source', tinyLlama)).code).toBe(0)
  })
})

describe('a GGUF as a source', () => {
  it('goes through gptq, its own tokenizer reading the calibration text', async () => {
    const { output, report } = await made(f16.path, '--method', 'gptq', '--group', '32', ...quick)
    expect(report.calibration!.tokensUsed).toBeGreaterThan(0)
    expect(fs.existsSync(join(output, 'tokenizer.json'))).toBe(true)
    const config = JSON.parse(fs.readFileSync(join(output, 'config.json'), 'utf8'))
    expect(config).toMatchObject({ model_type: 'llama', quantization_config: { quant_method: 'gptq', bits: 4 } })
    expect(await perplexity(output)).toBeGreaterThan(await perplexity(f16.path))
  })

  it('keeps its blocks in the same mix, and gives them up in no other without --lossy', async () => {
    const { path, output } = await rtn('--format', 'gguf:q4_0')
    const same = await made('convert', output, '--format', 'gguf:q4_0')
    expect(fs.readFileSync(same.path).equals(fs.readFileSync(path))).toBe(true)
    expect(same.report.linears.every(({ method, maxAbsError }) => method === 'repack' && maxAbsError === 0)).toBe(true)
    const gptq = await made('convert', path, '--format', 'compressed-tensors')
    expect(gptq.report.linears.every(({ method, maxAbsError }) => method === 'repack' && maxAbsError === 0)).toBe(true)
    const codebook = await made('convert', path, '--format', 'codebook')
    expect(codebook.report.linears.every(({ maxAbsError }) => maxAbsError === 0)).toBe(true)
    const plain = await made('convert', path, '--format', 'safetensors:f32')
    const { code } = await run('compare', plain.output, path, '--tolerance', '0')
    expect(code).toBe(0)
    // llama.cpp rounds what linears read, and so does eval
    const ratio = (await perplexity(path)) / (await perplexity(plain.output))
    expect(ratio).not.toBe(1)
    expect(Math.abs(ratio - 1)).toBeLessThan(0.015)
    expect(await refusal('convert', path, '--format', 'gguf:q5_1')).toMatch(/--lossy accepts that/)
  })

  it('keeps codes of other formats where a type holds them', async () => {
    const coded = await made(
      tinyLlama,
      '--method',
      'rtn',
      '--group',
      '32',
      '--format',
      'compressed-tensors',
      '--dtype',
      'f16',
    )
    const { report, path } = await made('convert', coded.output, '--format', 'gguf:q4_0')
    expect(report.linears.length).toBeGreaterThan(20)
    expect(report.linears.every(({ method, maxAbsError }) => method === 'repack' && maxAbsError === 0)).toBe(true)
    const { code } = await run('compare', coded.output, path, '--tolerance', '0')
    expect(code).toBe(0)
  })
})

describe('error feedback onto types', () => {
  it('keeps scales, changes codes, and lowers the error of outputs', async () => {
    const plain = await rtn('--format', 'gguf:q4_0')
    const fed = await made(tinyLlama, '--method', 'gptq', '--format', 'gguf:q4_0', ...quick)
    expect(fed.report.linears.filter(({ method }) => method === 'gptq').length).toBe(28)
    expect(fs.statSync(fed.path).size).toBe(fs.statSync(plain.path).size)
    const { read, checkpoint } = loadModel(fed.output, nodeFiles)
    expect(read({ tensor: 'model.layers.0.mlp.up_proj.weight' })).toHaveLength(384 * 128)
    checkpoint.close()
    const again = await made(tinyLlama, '--method', 'gptq', '--format', 'gguf:q4_0', ...quick)
    expect(hashesOf(again.report)).toEqual(hashesOf(fed.report))
  })

  it('corrects and refines unless told otherwise, and each changes what it should', async () => {
    const q4 = (...args: readonly string[]) => made(tinyLlama, '--format', 'gguf:q4_0', ...quick, ...args)
    const outputError = ({ report }: Awaited<ReturnType<typeof q4>>): number =>
      report.linears.reduce((sum, { relativeOutputError }) => sum + (relativeOutputError ?? 0), 0)
    const usual = await q4()
    expect(usual.report.recipe).toMatchObject({ correct: 0.5, refine: 'cd' })
    expect(usual.report.linears[0]).toMatchObject({ type: 'Q4_0', method: 'gptq' })
    const plain = await q4('--correct', '0', '--refine', 'none')
    const refined = await q4('--correct', '0')
    expect(outputError(refined)).toBeLessThan(0.97 * outputError(plain))
    // the weights of a corrected linear were moved, so that it is further from what it was
    expect(outputError(usual)).toBeGreaterThan(1.05 * outputError(refined))
    expect(refined.report.recipe).toMatchObject({ correct: 0, refine: 'cd' })
  })
})

describe('--correct and --refine', () => {
  it('are for other formats, too, when asked for', async () => {
    const plain = await made(tinyLlama, '--group', '64', ...quick)
    expect(plain.report.recipe).toMatchObject({ correct: 0, refine: 'none' })
    const refined = await made(tinyLlama, '--group', '64', ...quick, '--refine', 'cd')
    for (const [i, { relativeOutputError }] of refined.report.linears.entries())
      if (i < 3) expect(relativeOutputError!).toBeLessThan(plain.report.linears[i].relativeOutputError!)
    const { code } = await run('eval', refined.output, '--text', text, '--seq-len', '64', '--windows', '2')
    expect(code).toBe(0)
  })

  it('refuse what they have no effect on', async () => {
    expect(await refusal(tinyLlama, '--group', '64', '--act-order', 'g_idx', '--refine', 'cd')).toContain(
      '--refine cd: groups of --act-order g_idx are fitted during the sweep; use --act-order static',
    )
    expect(await refusal(tinyLlama, '--method', 'rtn', '--refine', 'cd')).toContain('--refine')
    expect(await refusal(tinyLlama, '--method', 'rtn', '--correct', '0.5')).toContain('--correct')
  })
})

describe('calibrate', () => {
  it('reads a quantized GGUF, too', async () => {
    const { path } = await rtn('--format', 'gguf:q8_0')
    const { code } = await run('calibrate', path, '-o', join(folder, 'q.gguf'), ...quick)
    expect(code).toBe(0)
  })

  it.each(['m.gguf', 'm.dat'])('writes %s, by which rtn weighs its errors', async name => {
    const file = join(folder, name)
    const { code, stdout } = await run('calibrate', f16.path, '-o', file, ...quick, '--json')
    expect([code, JSON.parse(stdout).entries]).toEqual([0, 28])
    const plain = await rtn('--format', 'gguf:q4_0')
    const weighed = await rtn('--format', 'gguf:q4_0', '--imatrix', file)
    expect(weighed.report.warnings.join()).toMatch(
      /no entry for 1 of 29 weights, which are rounded without: model.embed_tokens/,
    )
    expect(fs.readFileSync(weighed.path).equals(fs.readFileSync(plain.path))).toBe(false)
    expect(readReport(weighed.output).recipe.imatrix).toBe(file)
  })
})
