/** Scaled models from the command line: awq, smoothquant and their compositions. */
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { readWeight } from '../../src/checkpoint/read-weight.ts'
import { bytesOf } from '../../src/dtype/bytes.ts'
import { toFloat32 } from '../../src/dtype/convert.ts'
import { loadModel } from '../../src/evaluate/load-model.ts'
import { nodeFiles } from '../../src/io/files.ts'
import type { Report } from '../../src/report/schema.ts'
import { hashesOf, quantizeTo, quick, readConfig, readReport, run, tinyLlama } from '../helpers/command-line.ts'
import { attempt, contentOf, failing, runOnce, writeSmallModel } from '../helpers/faults.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
let outputs = 0
const fresh = (): string => join(folder, `out${outputs++}`)
const held = join(tinyLlama, 'held.txt')

const perplexity = async (model: string): Promise<number> => {
  const { code, stdout, stderr } = await run(
    'eval',
    model,
    '--text',
    held,
    '--windows',
    '8',
    '--seq-len',
    '128',
    '--json',
  )
  if (code !== 0) throw new Error(stderr)
  return JSON.parse(stdout).perplexity
}

const meanError = ({ linears }: Report): number =>
  linears.reduce((sum, { relativeOutputError }) => sum + relativeOutputError!, 0) / linears.length

const options = ['--group', '64', '--samples', '32', '--seq-len', '64', '--calib', held] as const

describe('--method awq', () => {
  it('loses less than rounding to nearest, and less still with error feedback', async () => {
    const [awq, both] = [fresh(), fresh()]
    const report = await quantizeTo(awq, tinyLlama, '--method', 'awq', '--bits', '4', ...options)
    const nearest = ['--method', 'rtn', '--asym', '--format', 'awq', '--clip', 'awq'] as const
    const clipped = await quantizeTo(fresh(), tinyLlama, ...nearest, ...options)
    const composed = ['--method', 'gptq', '--asym', '--transform', 'awq'] as const
    const feedback = await quantizeTo(both, tinyLlama, ...composed, ...options)
    expect(meanError(report)).toBeLessThan(meanError(clipped))
    expect(meanError(feedback)).toBeLessThan(meanError(report))
    const plain = await perplexity(tinyLlama)
    expect(await perplexity(awq)).toBeLessThan(1.1 * plain)
    expect(report.statistics).toMatchObject({ of: 'unquantized model', file: null })
    expect(feedback.statistics).toMatchObject({ of: 'quantized prefix' })
    expect(readConfig(awq).quantization_config).toMatchObject({ quant_method: 'awq' })
  })

  it('says of each input what was done to it, and verify finds the errors of the report', async () => {
    for (const method of [
      ['--method', 'awq'],
      ['--method', 'gptq', '--transform', 'awq', '--clip', 'mse'],
    ]) {
      const output = fresh()
      const { transforms, linears } = await quantizeTo(output, tinyLlama, ...method, ...options)
      expect(transforms).toHaveLength(16)
      for (const { errorBefore, error, exponent, reason, factors } of transforms) {
        expect((exponent === null) === (reason !== null)).toBe(true)
        expect((factors === null) === (reason !== null)).toBe(true)
        if (error !== null) expect(error).toBeLessThan(errorBefore!)
      }
      const vias = transforms.map(({ via }) => via)
      expect([vias.includes('norm'), vias.includes('linear')]).toEqual([true, true])
      const { code, stdout } = await run('verify', output, '--source', tinyLlama, '--json')
      expect([code, JSON.parse(stdout).linears]).toEqual([0, linears.length])
    }
  })

  it('gives the same bytes in one thread, in two, and from a file', async () => {
    const text = [...quick, '--calib', held] as const
    const stats = join(folder, 's.safetensors')
    expect((await run('calibrate', tinyLlama, ...text, '-o', stats)).code).toBe(0)
    const method = [tinyLlama, '--method', 'awq', '--group', '64'] as const
    const one = await quantizeTo(fresh(), ...method, ...text, '--threads', '1')
    const two = await quantizeTo(fresh(), ...method, ...text, '--threads', '2')
    const file = await quantizeTo(fresh(), ...method, '--stats', stats)
    expect(hashesOf(two)).toEqual(hashesOf(one))
    expect(hashesOf(file)).toEqual(hashesOf(one))
    expect(file.calibration).toBeNull()
    expect(file.statistics!.texts).toEqual([one.calibration])
  })

  it('gives the same bytes with activations in a file', async () => {
    const method = [tinyLlama, '--group', '64', '--transform', 'awq', '--samples', '48', '--seq-len', '64'] as const
    const { memory } = JSON.parse((await run(...method, '--dry-run', '--json')).stdout)
    const whole = await quantizeTo(fresh(), ...method)
    const tight = await quantizeTo(fresh(), ...method, '--max-memory', `${Math.ceil(memory.least / 1000)}kB`)
    expect(hashesOf(tight)).toEqual(hashesOf(whole))
  })

  it('leaves inputs alone whose linears are not all quantized', async () => {
    const { transforms } = await quantizeTo(
      fresh(),
      ...[tinyLlama, '--method', 'rtn', '--transform', 'awq', '--asym', '--format', 'codebook', ...quick],
      ...['--group', '64', '--exclude', '*.layers.1.*.k_proj,*.layers.2.*.up_proj'],
    )
    const reasons = transforms.filter(({ reason }) => reason?.includes('stays unquantized')).map(({ tap }) => tap)
    expect(reasons).toEqual([
      'model.layers.1.self_attn.q_proj',
      'model.layers.2.mlp.gate_proj',
      'model.layers.2.mlp.down_proj',
    ])
  })

  it('leaves a norm alone that is stored in float64', async () => {
    const model = fresh()
    writeSmallModel(model, source =>
      source.name.endsWith('input_layernorm.weight')
        ? {
            ...{ ...source, dtype: 'F64', bytes: 4 * source.bytes },
            read: () => bytesOf(Float64Array.from(toFloat32(source.read(), source.dtype))),
          }
        : source,
    )
    const output = fresh()
    const { transforms } = await quantizeTo(output, model, '--method', 'awq', '--group', '64', ...quick)
    expect(transforms[0].reason).toMatch(/input_layernorm.weight is stored as F64/)
    expect(transforms.filter(({ factors }) => factors !== null).length).toBeGreaterThan(0)
    expect((await run('verify', output, '--source', model)).code).toBe(0)
  })
})

describe('--method smoothquant', () => {
  it('writes 8-bit weights, declares 8-bit inputs, and is near full precision', async () => {
    const output = fresh()
    const { transforms, linears } = await quantizeTo(output, tinyLlama, '--method', 'smoothquant', ...quick)
    expect(new Set(linears.map(({ bits, group, symmetric }) => `${bits} ${group} ${symmetric}`))).toEqual(
      new Set(['8 channel true']),
    )
    for (const { exponent, weightExponent, via, reason } of transforms)
      expect([exponent, weightExponent, via]).toEqual(reason === null ? [0.5, 0.5, 'norm'] : [null, null, null])
    expect((await perplexity(output)) / (await perplexity(tinyLlama))).toBeCloseTo(1, 1)
  })
})

describe('stored scales of inputs', () => {
  const w8a8 = ['--method', 'rtn', '--bits', '8', '--activations', 'int8'] as const

  it.each([
    [[...w8a8, '--activation-scales', 'minmax']],
    [[...w8a8, '--activation-scales', 'percentile']],
    [['--method', 'smoothquant', '--activation-scales', 'minmax', '--alpha', 'search']],
    [
      [
        '--method',
        'gptq',
        '--bits',
        '8',
        '--activations',
        'int8',
        '--activation-scales',
        'mse',
        '--format',
        'compressed-tensors',
      ],
    ],
    [['--method', 'rtn', '--grid', 'fp8', '--activations', 'fp8', '--activation-scales', 'minmax']],
  ])('%s: are read by eval, and near full precision', async given => {
    const output = fresh()
    await quantizeTo(output, tinyLlama, ...given, ...quick, '--calib', held)
    const { stdout } = await run('eval', output, '--text', held, '--windows', '8', '--seq-len', '128', '--json')
    const { perplexity: found, activations } = JSON.parse(stdout)
    expect(activations[0]).toMatch(/:sym,tensor,static$/)
    expect(found / (await perplexity(tinyLlama))).toBeCloseTo(1, 0)
    expect((await run('verify', output, '--source', tinyLlama)).code).toBe(0)
  })

  it('in eval are those that the output stores', async () => {
    const [stored, plain, stats] = [fresh(), fresh(), join(folder, 'in-eval.safetensors')]
    const text = [...quick, '--calib', held] as const
    const scored = ['--text', held, '--windows', '8', '--seq-len', '128', '--json'] as const
    await quantizeTo(stored, tinyLlama, ...w8a8, '--activation-scales', 'minmax', '--dtype', 'f32', ...text)
    await quantizeTo(plain, tinyLlama, '--method', 'rtn', '--bits', '8', '--group', 'channel', '--dtype', 'f32')
    await run('calibrate', tinyLlama, ...text, '-o', stats)
    const there = JSON.parse((await run('eval', stored, ...scored)).stdout)
    const refused = await run('eval', plain, '--activations', 'int8:static', '--stats', stats, ...scored)
    expect([refused.code, refused.stderr]).toEqual([3, expect.stringContaining('is of another model')])
    const found = await Promise.all(
      ['minmax', 'mse', 'percentile'].map(async observer => {
        const given = ['--activations', `int8:static=${observer}`, '--stats', stats] as const
        const { code, stdout, stderr } = await run('eval', tinyLlama, ...given, ...scored)
        expect([code, stderr]).toEqual([0, expect.any(String)])
        return JSON.parse(stdout).perplexity
      }),
    )
    // the same rounding of inputs; weights of 8 bits beside the model's own
    expect(found[0] / there.perplexity).toBeCloseTo(1, 1)
    expect(found[0] / (await perplexity(tinyLlama))).toBeGreaterThan(1.02)
    expect(new Set(found).size).toBe(3)
  })

  it('of a scaled model follow its factors', async () => {
    const scales = async (...more: readonly string[]) => {
      const output = fresh()
      await quantizeTo(output, tinyLlama, '--activation-scales', 'minmax', ...more, ...quick, '--calib', held)
      const { checkpoint } = loadModel(output, nodeFiles)
      const found = readWeight(checkpoint, { tensor: 'model.layers.0.self_attn.q_proj.input_scale' }).data[0]
      checkpoint.close()
      return found
    }
    const plain = await scales(...w8a8)
    const smooth = await scales('--method', 'smoothquant', '--alpha', '0.8')
    expect(smooth).toBeLessThan(plain / 2)
  })

  it.each([
    [['--activation-scales', 'minmax'], 'is of quantized inputs'],
    [['--method', 'rtn', '--format', 'gguf', '--activations', 'int8'], 'declares no quantized inputs'],
    [['--method', 'smoothquant', '--format', 'gguf'], 'use --activations none'],
    [
      ['--method', 'smoothquant', '--activations', 'int8:group=32', '--activation-scales', 'minmax'],
      'a stored scale is of the whole input, not of 32',
    ],
    [['--method', 'smoothquant', '--activation-scales', 'mse'], 'changes after they were seen'],
    [['--method', 'rtn', '--grid', 'fp8', '--activations', 'fp8', '--activation-scales', 'mse'], 'use minmax'],
  ] as const)('%s is refused', async (given, message) => {
    const { code, stderr } = await run(tinyLlama, ...given, '-o', fresh())
    expect([code, stderr]).toEqual([2, expect.stringContaining(message)])
  })
})

describe('inputs that a runtime quantizes as they come', () => {
  it.each([
    ['int8', 'int8:sym,token'],
    ['int8:asym', 'int8:asym,token'],
    ['int8:group=32', 'int8:sym,group=32'],
    ['int8:asym,group=64', 'int8:asym,group=64'],
  ])('--activations %s: eval finds %s', async (asked, declared) => {
    const output = fresh()
    await quantizeTo(output, tinyLlama, '--method', 'rtn', '--bits', '8', '--activations', asked)
    const scored = ['--text', held, '--windows', '8', '--seq-len', '128', '--json'] as const
    const of = async (...args: readonly string[]) => JSON.parse((await run('eval', ...args, ...scored)).stdout)
    const { perplexity: found, activations } = await of(output)
    expect(activations).toEqual([declared])
    expect(found).toBe((await of(output, '--activations', asked)).perplexity)
    expect(found).not.toBe((await of(output, '--activations', 'none')).perplexity)
  })

  const int8 = ['--bits', '8', '--activations', 'int8'] as const
  const fp8 = ['--grid', 'fp8', '--activations', 'fp8', '--activation-scales', 'minmax'] as const

  it.each([
    [['--bits', '8', '--activations', 'int8:group=48'], /q_proj: .*groups of 48 do not divide its \d+ inputs/],
    [['--bits', '8', '--activations', 'int8:group=48', '--format', 'codebook'], /groups of 48 do not divide/],
    [[...int8, '--group', 'block'], /use --group channel, not block/],
    [[...int8, '--activation-scales', 'minmax', '--format', 'codebook'], /keeps no scales of inputs/],
    [[...fp8, '--override', '*down_proj=group:block'], /down_proj: .*have scales of their own/],
  ])('%s: what no runtime could compute is refused before a weight is read', async (given, message) => {
    const { code, stderr } = await run(tinyLlama, '--method', 'rtn', ...given, '-o', fresh())
    expect([code, stderr]).toEqual([4, expect.stringMatching(message)])
  })
})

describe('a run that was cut off', () => {
  it.each([
    { method: 'awq', group: 64 },
    { method: 'gptq', group: 64, transform: 'awq' },
  ] as const)('goes on with the same bytes and the same report: %o', async method => {
    const request = { ...method, samples: 16, seqLen: 64 }
    const whole = failing(-1, 'full disk')
    const complete = fresh()
    await runOnce(tinyLlama, request, whole.files, complete)
    const writes = whole.calls.flatMap((call, n) => (call === 'writeAt' ? [n] : []))
    let resumed = 0
    for (const share of [0.3, 0.6, 0.95]) {
      const output = fresh()
      const { error, resumable } = await attempt(
        tinyLlama,
        request,
        writes[Math.floor(share * writes.length)],
        'full disk',
        output,
      )
      expect(error).toBeDefined()
      if (resumable) resumed++
      expect(contentOf(output)).toEqual(contentOf(complete))
      expect(readReport(output).transforms).toEqual(readReport(complete).transforms)
    }
    expect(resumed).toBeGreaterThan(1)
  })
})

describe('parts that do not go together', () => {
  it.each([
    [['--method', 'awq', '--alpha', '0.7'], '--alpha is the strength of --transform smoothquant'],
    [['--clip', 'awq', '--act-order', 'g_idx', '--group', '64'], 'use --act-order static'],
    [['--method', 'rtn', '--clip', 'awq', '--group', 'tensor', '--format', 'codebook'], '--clip mse'],
    [['--method', 'awq', '--format', 'gguf:q4_k_m'], 'has scales of its own search'],
    [['--method', 'rtn', '--clip', 'awq', '--grid', 'nvfp4'], 'use --clip mse'],
    [['--method', 'llm.int8', '--samples', '8'], 'it needs no data'],
  ] as const)('%s', async (given, message) => {
    const { code, stderr } = await run(tinyLlama, ...given, '-o', fresh())
    expect([2, 4]).toContain(code)
    expect(stderr).toContain(message)
  })
})
