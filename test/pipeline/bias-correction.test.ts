/** --bias-correction through the command line, against the definition computed from tokens in float64. */
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { sampleCalibration } from '../../src/calibrate/sample.ts'
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.ts'
import { fromBase64, toBase64 } from '../../src/dtype/base64.ts'
import { loadModel } from '../../src/evaluate/load-model.ts'
import { nodeFiles } from '../../src/io/files.ts'
import { readLog } from '../../src/io/record-log.ts'
import { planRun } from '../../src/plan.ts'
import { resolveRecipe } from '../../src/recipe.ts'
import type { Report } from '../../src/report/schema.ts'
import type { FinishedPart } from '../../src/run/journal.ts'
import { channelsBehind } from '../../src/transform/fold.ts'
import { writeBiasedLlama, writeOpt } from '../helpers/biased-models.ts'
import { hashesOf, quantizeTo, readReport, run, tinyLlama } from '../helpers/command-line.ts'
import { contentOf, failing, runOnce } from '../helpers/faults.ts'
import { plainBlocks, type TensorOf } from '../helpers/plain-forward.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
let outputs = 0
const fresh = (): string => join(folder, `out${outputs++}`)

const opt = writeOpt(join(folder, 'opt'), 'F32')
const half = writeOpt(join(folder, 'opt-f16'), 'F16')
const brain = writeOpt(join(folder, 'opt-bf16'), 'BF16')
const llama = writeBiasedLlama(join(folder, 'llama'))

const calib = join(tinyLlama, 'held.txt')
const windows = ['--calib', calib, '--samples', '8', '--seq-len', '48'] as const
const coarse = ['--bits', '3', '--group', '32', ...windows] as const
const corrected = [...coarse, '--bias-correction'] as const

/** A model as its tensors; a .gguf lies in its folder. */
const tensorsOf = (path: string): TensorOf => {
  const file = fs.readdirSync(path).find(name => name.endsWith('.gguf'))
  const { read } = loadModel(join(path, file ?? ''), nodeFiles)
  const known = new Map<string, Float32Array>()
  return name => {
    if (!known.has(name)) known.set(name, read({ tensor: name }))
    return known.get(name)!
  }
}

type Tokens = readonly (readonly number[])[]

/** What the linears of a model read, by name, token by token, in plain loops. */
const inputsOf = async (source: string, tensor: TensorOf): Promise<ReadonlyMap<string, Tokens>> => {
  const { checkpoint, model } = loadModel(source, nodeFiles)
  const asked = { text: calib, samples: 8, seqLen: 48, seed: 0 }
  const sample = await sampleCalibration(checkpoint, model, asked, nodeFiles)
  checkpoint.close()
  const config = JSON.parse(fs.readFileSync(join(source, 'config.json'), 'utf8'))
  const blocks = sample.windows.map(ids => plainBlocks(config, tensor, ids))
  return new Map(
    model.blocks.flatMap(({ stages }, block) =>
      stages.flatMap(({ linears }, stage) =>
        linears.map(({ name }) => [name, blocks.flatMap(window => window[block].taps[stage])] as const),
      ),
    ),
  )
}

const meanOf = (tokens: Tokens): number[] =>
  tokens[0].map((_, i) => tokens.reduce((sum, token) => sum + token[i], 0) / tokens.length)

const times = (weight: ArrayLike<number>, x: readonly number[], row: number): number =>
  x.reduce((sum, value, i) => sum + weight[row * x.length + i] * value, 0)

const largest = (values: ArrayLike<number>): number => Array.from(values, Math.abs).reduce((a, b) => Math.max(a, b), 0)

/** Roundings of a stored value, relative. */
const unit = { F32: 2 ** -24, F16: 2 ** -11, BF16: 2 ** -8 } as const

/** Every figure and every bias of an output, from the tokens that its linears read. */
const expectDefinition = (
  source: TensorOf,
  output: TensorOf,
  { linears, corrected }: Report,
  inputs: ReadonlyMap<string, Tokens>,
  dtype: keyof typeof unit,
): void => {
  const shifts = new Map(corrected.map(({ linear, shift }) => [linear, fromBase64(shift)!]))
  for (const { name, shape, relativeOutputError, biasShift } of linears) {
    const tokens = inputs.get(name)
    if (!tokens) {
      expect([relativeOutputError, biasShift], 'an embedding').toEqual([null, null])
      continue
    }
    const [weight, decoded, shift] = [source(`${name}.weight`), output(`${name}.weight`), shifts.get(name)]
    const bias = shift && source(`${name}.bias`)
    const stored = shift && output(`${name}.bias`)
    const mean = meanOf(tokens)
    let [errors, energy, moved] = [0, 0, 0]
    for (let row = 0; row < shape[0]; row++) {
      const change = bias && stored ? stored[row] - bias[row] : 0
      moved += change * change
      let meanError = 0
      for (const token of tokens) {
        const wanted = times(weight, token, row)
        const error = times(decoded, token, row) + change - wanted
        meanError += error / tokens.length
        errors += error * error
        energy += wanted * wanted
      }
      if (!shift) continue
      expect(Math.abs(shift[row] - (times(weight, mean, row) - times(decoded, mean, row)))).toBeLessThan(2e-5)
      expect(Math.abs(meanError)).toBeLessThan(unit[dtype] * Math.abs(stored![row]) + 2e-5)
    }
    expect(relativeOutputError! / (errors / energy), name).toBeCloseTo(1, 3)
    if (shift) expect(biasShift).toBeCloseTo(Math.sqrt(moved / shape[0]), 12)
    else expect(biasShift).toBeNull()
  }
}

describe('a corrected bias', () => {
  it.each([
    ['F32', opt],
    ['F16', half],
    ['BF16', brain],
  ] as const)('of %s is the definition, from what the unquantized model reads (rtn)', async (dtype, source) => {
    const output = fresh()
    const report = await quantizeTo(output, source, '--method', 'rtn', ...corrected)
    expect(report.corrected).toHaveLength(12)
    expect(report.statistics).toMatchObject({ of: 'unquantized model' })
    const unquantized = tensorsOf(source)
    expectDefinition(unquantized, tensorsOf(output), report, await inputsOf(source, unquantized), dtype)
    const listed = [...report.kept, ...report.corrected].map(({ name }) => name)
    expect(listed.filter(name => name.endsWith('.bias') && !name.includes('norm'))).toHaveLength(12)
    expect(new Set(listed).size).toBe(listed.length)
  })

  it.each([
    ['F32', opt],
    ['BF16', brain],
  ] as const)(
    'of %s follows in gptq from what comes before it as it is stored, corrected biases too',
    async (dtype, source) => {
      const output = fresh()
      const report = await quantizeTo(output, source, '--method', 'gptq', ...corrected)
      expect(report.linears.map(({ method }) => method)).not.toContain('rtn')
      const [unquantized, stored] = [tensorsOf(source), tensorsOf(output)]
      const inputs = await inputsOf(source, stored)
      expectDefinition(unquantized, stored, report, inputs, dtype)
      const uncorrected = await inputsOf(source, name => (name.endsWith('.bias') ? unquantized : stored)(name))
      const last = 'model.decoder.layers.1.fc2'
      const [with_, without] = [meanOf(inputs.get(last)!), meanOf(uncorrected.get(last)!)]
      expect(largest(with_.map((mean, i) => mean - without[i]))).toBeGreaterThan(1e-2)
    },
  )

  it.each(['rtn', 'gptq'])('lowers the output error of every linear (%s)', async method => {
    const stats = join(folder, `${method}.safetensors`)
    expect((await run('calibrate', opt, ...windows, '-o', stats)).code).toBe(0)
    const options = [opt, '--method', method, '--bits', '3', '--group', '32', '--stats', stats] as const
    const plain = await quantizeTo(fresh(), ...options)
    const better = await quantizeTo(fresh(), ...options, '--bias-correction')
    for (const [i, { relativeOutputError, weightMse, biasShift }] of better.linears.entries()) {
      expect(weightMse).toBe(plain.linears[i].weightMse)
      expect(relativeOutputError).toBeLessThan(plain.linears[i].relativeOutputError!)
      expect([biasShift! > 0, plain.linears[i].biasShift]).toEqual([true, null])
    }
    expect([plain.corrected, plain.kept.length - better.kept.length]).toEqual([[], better.corrected.length])
  })

  it('has the same bytes in one thread, in two, from statistics, and with activations in a file', async () => {
    const stats = join(folder, 'stats.safetensors')
    expect((await run('calibrate', opt, ...windows, '-o', stats)).code).toBe(0)
    const rtn = [opt, '--method', 'rtn', '--bits', '3', '--group', '32', '--bias-correction'] as const
    const one = await quantizeTo(fresh(), ...rtn, ...windows, '--threads', '1')
    for (const more of [
      ['--threads', '2', ...windows],
      ['--stats', stats],
    ])
      expect(hashesOf(await quantizeTo(fresh(), ...rtn, ...more))).toEqual(hashesOf(one))
    const gptq = [opt, '--method', 'gptq', ...corrected] as const
    const { memory } = JSON.parse((await run(...gptq, '--dry-run', '--json')).stdout)
    const tight = ['--max-memory', `${Math.ceil(memory.least / 1000)}kB`] as const
    expect(hashesOf(await quantizeTo(fresh(), ...gptq, ...tight))).toEqual(hashesOf(await quantizeTo(fresh(), ...gptq)))
  })
})

describe('formats', () => {
  it.each([
    [opt, 'compressed-tensors', 'F32'],
    [opt, 'gptq', 'F32'],
    [opt, 'safetensors', 'F32'],
    [llama, 'compressed-tensors', 'BF16'],
    [llama, 'gptq', 'BF16'],
    [llama, 'mlx', 'BF16'],
    [llama, 'gguf:q8_0', 'F32'],
    [llama, 'gguf:q4_0', 'F32'],
  ] as const)('%s, %s: hold corrected biases, and verify agrees', async (source, format, dtype) => {
    const output = fresh()
    const scheme = format.startsWith('gguf') ? [] : ['--bits', '4', '--group', '32']
    const args = ['--method', 'rtn', '--format', format, ...scheme, ...windows, '--bias-correction'] as const
    const report = await quantizeTo(output, source, ...args)
    expect(report.corrected).toHaveLength(source === opt ? 12 : 4)
    const unquantized = tensorsOf(source)
    expectDefinition(unquantized, tensorsOf(output), report, await inputsOf(source, unquantized), dtype)
    const { code, stdout } = await run('verify', output, '--source', source, '--json')
    expect([code, JSON.parse(stdout).corrected]).toEqual([0, report.corrected.length])
  })

  it('onnx holds them beside its graph', async () => {
    const output = fresh()
    const args = ['--method', 'rtn', '--format', 'onnx', '--bits', '4', '--group', '32', ...windows] as const
    await quantizeTo(output, llama, ...args, '--bias-correction')
    expect((await run('verify', output, '--source', llama)).code).toBe(0)
  })

  it('--dtype rounds them to another dtype than the source has', async () => {
    const output = fresh()
    const report = await quantizeTo(output, opt, '--method', 'rtn', ...corrected, '--bits', '8', '--dtype', 'bf16')
    const unquantized = tensorsOf(opt)
    expectDefinition(unquantized, tensorsOf(output), report, await inputsOf(opt, unquantized), 'BF16')
    expect((await run('verify', output, '--source', opt)).code).toBe(0)
  })
})

describe('behind a transform', () => {
  /** By what the inputs and the outputs of each linear are divided, by the name of its weight. */
  const divisors = ({ transforms }: Report, source: TensorOf, output: TensorOf) => {
    const [inputs, rows] = [new Map<string, Float32Array>(), new Map<string, Float32Array>()]
    for (const { via, divided, multiplied, heads, factors } of transforms) {
      if (via === null) continue
      const chosen = fromBase64(factors!)!
      const [producer] = divided
      const spread =
        via === 'norm'
          ? Float32Array.from(source(producer), (value, i) => value / output(producer)[i])
          : Float32Array.from(channelsBehind(chosen.length, heads ?? undefined), channel => chosen[channel])
      for (const weight of multiplied) inputs.set(weight, spread)
      if (via === 'linear') rows.set(producer, chosen)
    }
    return { inputs, rows }
  }

  it.each([
    ['smoothquant', ['--method', 'smoothquant']],
    ['awq', ['--method', 'awq', '--bits', '3', '--group', '32', '--format', 'codebook']],
  ] as const)('%s: the mean of each output is the transformed one', async (_, method) => {
    const output = fresh()
    const report = await quantizeTo(output, opt, ...method, ...windows, '--bias-correction')
    const [unquantized, stored] = [tensorsOf(opt), tensorsOf(output)]
    const { inputs, rows } = divisors(report, unquantized, stored)
    expect(inputs.size).toBeGreaterThan(4)
    expect(rows.size > 0).toBe(method[1] === 'awq')
    const tokens = await inputsOf(opt, unquantized)
    for (const { name, shape } of report.linears) {
      const [weight, bias] = [`${name}.weight`, `${name}.bias`]
      const mean = meanOf(tokens.get(name)!)
      const scaled = mean.map((value, i) => value / (inputs.get(weight)?.[i] ?? 1))
      for (let row = 0; row < shape[0]; row++) {
        const wanted = (times(unquantized(weight), mean, row) + unquantized(bias)[row]) / (rows.get(weight)?.[row] ?? 1)
        const found = times(stored(weight), scaled, row) + stored(bias)[row]
        expect(Math.abs(found - wanted), name).toBeLessThan(5e-5)
      }
    }
    expect((await run('verify', output, '--source', opt)).code).toBe(0)
  })

  it('and with gptq: verify finds the biases', async () => {
    const output = fresh()
    const report = await quantizeTo(output, half, '--asym', '--transform', 'awq', ...corrected)
    expect(report.transforms.some(({ via }) => via === 'linear')).toBe(true)
    expect((await run('verify', output, '--source', half)).code).toBe(0)
  })
})

describe('verify', async () => {
  const output = fresh()
  await quantizeTo(output, half, '--method', 'rtn', ...corrected)

  /** A copy whose report was changed, and is of the files that there are. */
  const altered = (change: (report: Report, weights: Buffer, at: number) => void): string => {
    const to = fresh()
    fs.cpSync(output, to, { recursive: true })
    const path = join(to, 'model.safetensors')
    const weights = fs.readFileSync(path)
    const report = readReport(to)
    const header = JSON.parse(weights.subarray(8, 8 + Number(weights.readBigUInt64LE())).toString())
    const { data_offsets: offsets } = header[report.corrected[3].name]
    change(report, weights, 8 + Number(weights.readBigUInt64LE()) + offsets[0])
    fs.writeFileSync(path, weights)
    const sha256 = createHash('sha256').update(weights).digest('hex')
    report.outputs['model.safetensors'] = { bytes: weights.byteLength, sha256 }
    fs.writeFileSync(join(to, 'quantize-report.json'), JSON.stringify(report))
    return to
  }

  it('counts corrected biases', async () => {
    const { code, stdout } = await run('verify', output, '--source', half)
    expect([code, stdout]).toEqual([0, expect.stringContaining('12 biases are the source')])
  })

  it.each<readonly [string, Parameters<typeof altered>[0], RegExp]>([
    [
      'a bias that is another in the file',
      (_, weights, at) => {
        weights[at] ^= 1
      },
      /layers\.0\.self_attn\.out_proj\.bias is not the source's with the shift/,
    ],
    [
      'another shift',
      ({ corrected }) => {
        const shift = fromBase64(corrected[3].shift)!
        shift[5] += 0.5
        corrected[3].shift = toBase64(shift)
      },
      /out_proj\.bias is not the source's with the shift/,
    ],
    [
      'a shift of another length',
      ({ corrected }) => {
        corrected[3].shift = toBase64(new Float32Array(3))
      },
      /the shift of .*out_proj\.bias does not fit the source/,
    ],
    [
      'a figure of its own',
      ({ linears }) => {
        linears[3].biasShift! /= 2
      },
      /out_proj: biasShift is .*; the report says/,
    ],
    [
      'a bias that is not listed',
      ({ corrected }) => void corrected.splice(3, 1),
      /the bias of .*out_proj is not among those that were corrected/,
    ],
    [
      'a corrected bias that is said to be kept',
      ({ corrected, kept }) => void kept.push({ name: corrected[3].name, reason: 'none' }),
      /out_proj\.bias differs from the source's; the report says that it was kept/,
    ],
  ])('names %s', async (_, change, message) => {
    const { code, stderr } = await run('verify', altered(change), '--source', half)
    expect([code, stderr]).toEqual([3, expect.stringMatching(message)])
  })
})

describe('a run that was cut off', () => {
  const [first, second] = [writeOpt(join(folder, 'one'), 'F16', 1), writeOpt(join(folder, 'two'), 'BF16', 2)]
  const asked = { calib, samples: 6, seqLen: 48, bits: 3, group: 32, biasCorrection: true } as const

  /** How many linears and biases a run that failed at a write had finished. */
  const finishedIn = (output: string) => {
    const names = readLog(join(`${output}.partial`, 'journal'), nodeFiles).map(record => (record as FinishedPart).name)
    return {
      linears: names.filter(name => /_proj$|fc\d$/.test(name)).length,
      biases: names.filter(name => /(_proj|fc\d)\.bias$/.test(name)).length,
    }
  }

  it.each([
    [first, { method: 'rtn' }],
    [second, { method: 'gptq' }],
    [first, { method: 'rtn', transform: 'awq', symmetric: false, format: 'codebook' }],
    [second, { method: 'gptq', transform: 'awq', symmetric: false }],
  ] as const)('goes on with the same bytes and the same report: %s, %o', async (source, method) => {
    const request = { ...asked, ...method }
    const whole = failing(-1, 'full disk')
    const complete = fresh()
    await runOnce(source, request, whole.files, complete)
    const { linears, corrected } = readReport(complete)
    const writes = whole.calls.flatMap((call, n) => (call === 'writeAt' ? [n] : []))
    const left = []
    for (const share of [0.4, 0.6, 0.75, 0.85, 0.9, 0.95]) {
      const output = fresh()
      const at = writes[Math.floor(share * writes.length)]
      await expect(runOnce(source, request, failing(at, 'full disk').files, output)).rejects.toThrow('full disk')
      left.push(finishedIn(output))
      await runOnce(source, request, nodeFiles, output)
      expect(contentOf(output), `write ${at}`).toEqual(contentOf(complete))
    }
    expect(left.some(({ linears: done }) => done > 0 && done < linears.length)).toBe(true)
    expect(left.some(({ linears: done, biases }) => done === linears.length && biases < corrected.length)).toBe(true)
  })
})

describe('--bias-correction is refused', () => {
  it.each([
    ['of a model without biases', [tinyLlama, '--method', 'rtn'], 'no linear that is quantized has a bias'],
    [
      'where only others have some',
      [llama, '--method', 'gptq', '--group', '32', '--include', '*.mlp.*'],
      'no linear that is quantized has a bias',
    ],
    ['beside --correct', [opt, '--method', 'gptq', '--correct', '0.5'], '--correct moves the outputs of linears'],
    [
      'beside an importance matrix',
      [llama, '--method', 'rtn', '--format', 'gguf:q4_k_m', '--imatrix', 'x.gguf'],
      '--imatrix has no effect with --bias-correction',
    ],
  ] as const)('%s', async (_, args, message) => {
    const { code, stderr } = await run(...args, '--bias-correction', '-o', fresh())
    expect([code, stderr.match(/^error/gm)?.length, stderr]).toEqual([2, 1, expect.stringContaining(message)])
  })

  it('for biases of a dtype to which nothing is rounded', () => {
    const checkpoint = openCheckpoint(opt, nodeFiles)
    const { model } = loadModel(opt, nodeFiles)
    const name = 'model.decoder.layers.0.fc1.bias'
    const tensors = new Map(checkpoint.tensors).set(name, { ...checkpoint.tensors.get(name)!, dtype: 'F64' })
    const planFor = (restDtype?: 'F32') =>
      planRun(
        { ...checkpoint, tensors },
        model,
        resolveRecipe({ method: 'rtn', group: 32, biasCorrection: true, restDtype }),
      )
    expect(() => planFor()).toThrow(/fc1\.bias would be stored as F64; .*give --dtype/)
    expect(planFor('F32').linears.every(({ bias }) => bias?.dtype === 'F32')).toBe(true)
    checkpoint.close()
  })
})

it('--dry-run says which tensors will be corrected', async () => {
  const args = [llama, '--method', 'gptq', '--group', '32', '--bias-correction', '--dry-run'] as const
  expect((await run(...args)).stdout).toContain('4 tensors stay as they are, 4 biases are corrected')
  const { kept } = JSON.parse((await run(...args, '--json')).stdout)
  expect(kept.filter(({ reason }: { reason: string }) => reason.startsWith('corrected'))).toHaveLength(4)
})
