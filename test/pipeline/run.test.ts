import fs, { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it, vi } from 'vitest'
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.ts'
import { readWeight } from '../../src/checkpoint/read-weight.ts'
import { main } from '../../src/cli/main.ts'
import { loadModel } from '../../src/evaluate/load-model.ts'
import { ownerOf } from '../../src/format/owner.ts'
import { nodeFiles } from '../../src/io/files.ts'
import type { Report } from '../../src/report/schema.ts'
import { fileBytes } from '../checkpoint/support.ts'
import { FakeProcess } from '../cli/fake-process.ts'
import { hashesOf, quantizeTo, quick, readReport, run, tinyLlama } from '../helpers/command-line.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
let outputs = 0
const fresh = (): string => join(folder, `out${outputs++}`)

const tensorNames = (path: string): string[] => readTensors(path).map(({ name }) => name)

/** Each source tensor is in the output as codes, or bit for bit as it was and listed with a reason, or listed as dropped; nothing else is. */
const expectCovered = (source: string, output: string, { linears, kept, dropped }: Report): void => {
  const before = readTensors(source)
  const after = new Map(readTensors(output).map(tensor => [tensor.name, tensor]))
  const quantized = linears.map(({ name }) => `${name}.weight`)
  const listed = kept.map(({ name }) => name)
  const accounted = [...quantized, ...listed, ...dropped.map(({ name }) => name)]
  expect(accounted.sort()).toEqual(before.map(({ name }) => name).sort())
  const names = new Set(linears.map(({ name }) => name))
  const owned = [...after.keys()].filter(name => !listed.includes(name)).map(name => ownerOf(name, names))
  expect(new Set(owned)).toEqual(names)
  for (const tensor of before) if (listed.includes(tensor.name)) expect(after.get(tensor.name)).toEqual(tensor)
  expect([...kept, ...dropped].every(({ reason }) => reason.length > 0)).toBe(true)
}

/** The figures of a linear's report, worked out from both checkpoints in another way than the run did. */
const expectTrueFigures = (source: string, output: string, { linears }: Report): void => {
  const original = openCheckpoint(source, nodeFiles)
  const stored = loadModel(output, nodeFiles)
  for (const { name, weightMse, maxAbsError, sqnrDb } of linears) {
    const before = readWeight(original, { tensor: `${name}.weight` }).data
    const after = stored.read({ tensor: `${name}.weight` })
    const squares = Array.from(before, (weight, i) => (weight - after[i]) ** 2)
    const noise = squares.reduce((sum, square) => sum + square, 0)
    const signal = before.reduce((sum, weight) => sum + weight * weight, 0)
    expect(weightMse).toBeCloseTo(noise / before.length, 9)
    expect(maxAbsError ** 2).toBeCloseTo(
      squares.reduce((most, square) => Math.max(most, square), 0),
      9,
    )
    expect(sqnrDb).toBeCloseTo(10 * Math.log10(signal / noise), 4)
  }
  original.close()
  stored.checkpoint.close()
}

const variants: readonly (readonly string[])[] = [
  ['--bits', '4', '--group', '128'],
  ['--bits', '2', '--group', '32', '--asym'],
  ['--bits', '3', '--group', '64', '--act-order', 'none', '--clip', 'mse'],
  ['--bits', '8', '--group', 'channel'],
  ['--bits', '4', '--group', 'tensor'],
  ['--bits', '4', '--group', '32', '--act-order', 'g_idx', '--format', 'gptq:v2'],
  ['--bits', '4', '--group', '64', '--asym', '--format', 'gptq'],
  ['--method', 'rtn', '--bits', '4', '--group', '64'],
]

describe('a run', () => {
  it.each(variants.map(options => [options.join(' '), options] as const))(
    'accounts for every tensor, and its figures are those of the files: %s',
    async (_, options) => {
      const output = fresh()
      const data = options.includes('rtn') ? [] : quick
      const report = await quantizeTo(output, tinyLlama, ...options, ...data)
      expect(report.linears.map(({ fallback }) => fallback)).not.toContain('')
      expectCovered(tinyLlama, output, report)
      expectTrueFigures(tinyLlama, output, report)
    },
  )

  it('gives the same bytes on 1, 2 and 4 threads, and again', async () => {
    const options = [tinyLlama, '--group', '64', '--clip', 'mse', ...quick]
    const [first, ...others] = [
      await quantizeTo(fresh(), ...options, '--threads', '1'),
      await quantizeTo(fresh(), ...options, '--threads', '2'),
      await quantizeTo(fresh(), ...options, '--threads', '2'),
      await quantizeTo(fresh(), ...options, '--threads', '4'),
    ].map(hashesOf)
    for (const other of others) expect(other).toEqual(first)
  })

  it('gives the same bytes when the system lists a folder in another order', async () => {
    const source = join(folder, 'any-order')
    fs.cpSync(tinyLlama, source, { recursive: true })
    splitInTwo(source)
    const options = [source, '--method', 'rtn', '--group', '64', '--shard-size', '300kB']
    const expected = hashesOf(await quantizeTo(fresh(), ...options))
    const spy = vi.spyOn(fs, 'readdirSync')
    const real = spy.getMockImplementation() ?? readdirSync
    spy.mockImplementation(((...args: Parameters<typeof readdirSync>) => [...real(...args)].reverse()) as never)
    try {
      expect(hashesOf(await quantizeTo(fresh(), ...options))).toEqual(expected)
      expect(spy).toHaveBeenCalled()
    } finally {
      spy.mockRestore()
    }
  })

  it('reads a model in shards and writes one, with the same tensors', async () => {
    const [whole, shards, again] = [fresh(), fresh(), fresh()]
    const options = ['--method', 'rtn', '--bits', '8', '--group', '64']
    await quantizeTo(whole, tinyLlama, ...options)
    await quantizeTo(shards, tinyLlama, ...options, '--shard-size', '300kB')
    const files = fs.readdirSync(shards).filter(name => name.endsWith('.safetensors'))
    expect(files.length).toBeGreaterThan(2)
    for (const name of files) expect(fs.statSync(join(shards, name)).size).toBeLessThan(310_000)
    expect(tensorNames(shards).sort()).toEqual(tensorNames(whole).sort())

    // the plain model in shards: its own tensors behind an index
    const source = join(folder, 'sharded')
    fs.cpSync(tinyLlama, source, { recursive: true })
    splitInTwo(source)
    const report = await quantizeTo(again, source, ...options)
    expect(report.source.files).toHaveLength(2)
    expect(report.outputs['model.safetensors'].bytes).toBe(fs.statSync(join(whole, 'model.safetensors')).size)
  })

  it('keeps a tied embedding tied and carries every other file along', async () => {
    const source = join(folder, 'with-files')
    fs.cpSync(tinyLlama, source, { recursive: true })
    fs.writeFileSync(join(source, 'chat_template.jinja'), '{{ messages }}')
    fs.writeFileSync(join(source, 'pytorch_model.bin'), 'not read')
    fs.mkdirSync(join(source, 'onnx'))
    const output = fresh()
    const report = await quantizeTo(output, source, '--method', 'rtn', '--group', '64')
    expect(tensorNames(output)).toContain('model.embed_tokens.weight')
    expect(tensorNames(output)).not.toContain('lm_head.weight')
    for (const name of ['tokenizer.json', 'tokenizer_config.json', 'generation_config.json', 'chat_template.jinja'])
      expect(fs.readFileSync(join(output, name))).toEqual(fs.readFileSync(join(source, name)))
    expect(fs.existsSync(join(output, 'pytorch_model.bin'))).toBe(false)
    expect(report.warnings).toContain('not copied into the output: onnx/, pytorch_model.bin')
    const config = JSON.parse(fs.readFileSync(join(output, 'config.json'), 'utf8'))
    expect(config).toMatchObject({
      tie_word_embeddings: true,
      quantization_config: { quant_method: 'compressed-tensors' },
    })
  })

  it('quantizes a lone file of no known architecture by shape', async () => {
    const source = join(folder, 'lone.safetensors')
    fs.copyFileSync(join(tinyLlama, 'model.safetensors'), source)
    const output = fresh()
    const report = await quantizeTo(output, source, '--method', 'rtn', '--group', '64')
    expect(report.linears).toHaveLength(28)
    expectCovered(source, output, report)
    expect((await run(source, '-o', fresh())).code).not.toBe(0)
  })

  it('leaves a linear dense that the format cannot hold, if told so, and lists it', async () => {
    const source = join(folder, 'odd')
    copyShortened(source, 'model.layers.1.mlp.gate_proj.weight', 'model.layers.1.mlp.up_proj.weight')
    const options = ['--method', 'rtn', '--group', 'channel', '--format', 'gptq']
    const refused = await run(source, ...options, '-o', fresh())
    expect(refused.code).toBe(4)
    expect(refused.stderr).toMatch(/not a multiple of 8/)
    const output = fresh()
    const report = await quantizeTo(output, source, ...options, '--unfit', 'keep')
    expect(report.kept.map(({ name }) => name)).toContain('model.layers.1.mlp.gate_proj.weight')
    expectCovered(source, output, report)
  })

  it('falls back to rounding to nearest where too few tokens were seen, and says so', async () => {
    const few = ['--group', '64', '--samples', '2', '--seq-len', '64']
    const report = await quantizeTo(fresh(), tinyLlama, ...few)
    expect(report.calibration!.tokensUsed).toBe(128)
    expect(report.linears.every(({ method, fallback }) => method === 'rtn' && /128 tokens/.test(fallback!))).toBe(true)
    const strict = await run(tinyLlama, ...few, '--strict', '-o', fresh())
    expect(strict.code).toBe(1)
    expect(strict.stderr).toContain('28 of 28 linears fell back')
  })

  it('takes smaller groups where asked to, linear by linear', async () => {
    const report = await quantizeTo(fresh(), tinyLlama, '--method', 'rtn', '--group', '96', '--group-fallback')
    const groups = Object.fromEntries(report.linears.map(({ name, group }) => [name.split('.').at(-1), group]))
    expect(groups).toMatchObject({ q_proj: 64, down_proj: 96 })
  })
})

describe('a run that fails', () => {
  const nothingLeft = (output: string): void => {
    expect(fs.existsSync(output)).toBe(false)
    expect(fs.existsSync(`${output}.partial`)).toBe(false)
  }

  it.each([
    [
      'a group that does not divide',
      ['--group', '96'],
      4,
      /groups of 96 do not divide its 128 inputs; use --group .*64, 128.*--group-fallback/,
    ],
    ['too little text', ['--samples', '1000000', ...quick.slice(2)], 3, /tokens/],
    ['windows longer than the model', ['--seq-len', '1024'], 2, /at most 512 positions/],
    ['an option of another method', ['--method', 'rtn', '--damp', '0.1'], 2, /--damp.*rtn/],
    ['no such text', ['--calib', 'nowhere.txt'], 3, /nowhere\.txt/],
  ])('leaves nothing behind: %s', async (_, options, code, message) => {
    const output = fresh()
    const ended = await run(tinyLlama, ...options, '-o', output)
    expect(ended.code).toBe(code)
    expect(ended.stderr).toMatch(message)
    nothingLeft(output)
  })

  /** tiny-llama with some values of one tensor replaced: pairs of element and bf16 bits. */
  const brokenModel = (name: string, ...values: readonly (readonly [at: number, bits: number])[]): string => {
    const source = join(folder, `broken ${broken++}`)
    fs.cpSync(tinyLlama, source, { recursive: true })
    const file = join(source, 'model.safetensors')
    const tensors = readTensors(file)
    const { data } = tensors.find(tensor => tensor.name === name)!
    for (const [at, bits] of values) data.set([bits & 0xff, bits >> 8], 2 * at)
    writeTensors(file, tensors)
    return source
  }
  let broken = 0
  const [nan, infinite] = [0x7fc0, 0xff80]

  it('at a weight that is not finite, halfway, names it and leaves nothing behind; or takes 0 and counts it', async () => {
    const name = 'model.layers.2.mlp.down_proj'
    const values = [[384 * 5 + 9, nan] as const, [384 * 70 + 383, infinite] as const]
    const source = brokenModel(`${name}.weight`, ...values)
    const output = fresh()
    const ended = await run(source, '--group', '64', ...quick, '-o', output)
    expect(ended.code).toBe(3)
    expect(ended.stderr).toContain(`${name}.weight: row 5, column 9 is NaN`)
    nothingLeft(output)

    const report = await quantizeTo(output, source, '--group', '64', ...quick, '--nonfinite', 'zero')
    const counts = report.linears.map(linear => [linear.name, linear.zeroedWeights, linear.zeroedActivations])
    expect(counts).toContainEqual([name, 2, 0])
    expect(counts.filter(([, weights, activations]) => weights || activations)).toHaveLength(1)
    const zeroed = brokenModel(`${name}.weight`, ...values.map(([at]) => [at, 0] as const))
    const same = await quantizeTo(fresh(), zeroed, '--group', '64', ...quick)
    expect(hashesOf(report)['model.safetensors']).toBe(hashesOf(same)['model.safetensors'])
    expect(report.linears.map(({ weightMse }) => weightMse)).toEqual(same.linears.map(({ weightMse }) => weightMse))
    expect((await run('verify', output, '--source', source)).code).toBe(0)
  })

  it('at an activation that is not finite names channel, token and sample; or takes 0 and counts them', async () => {
    const source = brokenModel('model.layers.1.input_layernorm.weight', [3, nan])
    const output = fresh()
    const ended = await run(source, '--group', '64', ...quick, '-o', output)
    expect(ended.code).toBe(3)
    expect(ended.stderr).toMatch(
      /model\.layers\.1\.self_attn\.q_proj: channel 3 of its input is NaN at token 0 of sample 0/,
    )
    nothingLeft(output)
    const report = await quantizeTo(output, source, '--group', '64', ...quick, '--nonfinite', 'zero')
    expect(report.linears.find(({ name }) => name.endsWith('1.self_attn.k_proj'))!.zeroedActivations).toBe(16 * 64)
    expect(report.linears.find(({ name }) => name.endsWith('0.self_attn.k_proj'))!.zeroedActivations).toBe(0)
  })

  it('replaces an output only when told so, and never what it reads', async () => {
    const output = fresh()
    await quantizeTo(output, tinyLlama, '--method', 'rtn', '--group', '64')
    const before = fs.statSync(join(output, 'model.safetensors')).ino
    const refused = await run(tinyLlama, '--method', 'rtn', '--group', '64', '-o', output)
    expect(refused.code).toBe(2)
    expect(refused.stderr).toContain('--overwrite')
    expect(fs.statSync(join(output, 'model.safetensors')).ino).toBe(before)
    await quantizeTo(output, tinyLlama, '--method', 'rtn', '--group', '32', '--overwrite')
    const source = join(folder, 'precious')
    fs.cpSync(tinyLlama, source, { recursive: true })
    expect((await run(source, '--method', 'rtn', '-o', source, '--overwrite')).code).toBe(2)
    expect(fs.existsSync(join(source, 'model.safetensors'))).toBe(true)
  })
})

describe('a run that is interrupted', () => {
  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)(
    'by %s stops after the linear under way, says how to go on, and goes on to the same bytes',
    async (signal, code) => {
      const options = [tinyLlama, '--group', '64', ...quick, '--verbose']
      const whole = await quantizeTo(fresh(), ...options)
      const output = fresh()
      const fake = new FakeProcess([...options, '-o', output])
      const write = fake.stderr.write.bind(fake.stderr)
      let sent = false
      fake.stderr.write = text => {
        const written = write(text)
        if (!sent && fake.stderr.text.includes('[ 9/28]')) {
          sent = true
          for (const listener of fake.listeners.get(signal) ?? []) listener(signal as never)
        }
        return written
      }
      await main(fake)
      expect(fake.exitCode).toBe(code)
      expect(fake.stderr.text).toContain(`${output}.partial: the same command goes on from there`)
      expect(fake.stderr.text).not.toContain('[11/28]')
      expect(fs.existsSync(output)).toBe(false)
      const ended = await run(...options, '-o', output)
      expect(ended.code).toBe(0)
      expect(ended.stderr).toMatch(/going on: \d+ tensors and linears were finished/)
      expect(ended.stderr).not.toContain('[ 9/28]')
      expect(hashesOf(readReport(output))).toEqual(hashesOf(whole))
    },
  )
})

describe('--dry-run', () => {
  it('prints the plan and writes nothing', async () => {
    const output = fresh()
    const { code, stdout } = await run(tinyLlama, '--dry-run', '--json', '-o', output)
    expect(code).toBe(0)
    expect(JSON.parse(stdout).linears).toHaveLength(28)
    expect(fs.existsSync(output)).toBe(false)
  })
})

interface Stored {
  readonly name: string
  readonly dtype: string
  readonly shape: readonly number[]
  readonly data: Uint8Array
}

const readTensors = (path: string): Stored[] => {
  const checkpoint = openCheckpoint(path, nodeFiles)
  const tensors = [...checkpoint.tensors.values()].map(({ name, dtype, shape, read }) => ({
    name,
    dtype,
    shape,
    data: read(),
  }))
  checkpoint.close()
  return tensors
}

const writeTensors = (path: string, tensors: readonly Stored[]): void => {
  let at = 0
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  for (const { name, dtype, shape, data } of tensors) {
    header[name] = { dtype, shape, data_offsets: [at, at + data.length] }
    at += data.length
  }
  fs.writeFileSync(path, fileBytes(JSON.stringify(header), Buffer.concat(tensors.map(({ data }) => data))))
}

/** Replaces a model's file by two shards and their index. */
const splitInTwo = (source: string): void => {
  const file = join(source, 'model.safetensors')
  const tensors = readTensors(file)
  const weightMap: Record<string, string> = {}
  for (const [k, part] of [tensors.slice(0, 11), tensors.slice(11)].entries()) {
    const shard = `model-0000${k + 1}-of-00002.safetensors`
    writeTensors(join(source, shard), part)
    for (const { name } of part) weightMap[name] = shard
  }
  fs.rmSync(file)
  fs.writeFileSync(
    join(source, 'model.safetensors.index.json'),
    JSON.stringify({ metadata: {}, weight_map: weightMap }),
  )
}

/** tiny-llama's weights alone, of which these have lost their last row: 383 outputs fit no word of codes. */
const copyShortened = (target: string, ...short: readonly string[]): void => {
  fs.mkdirSync(target)
  const tensors = readTensors(join(tinyLlama, 'model.safetensors')).map((tensor): Stored => {
    if (!short.includes(tensor.name)) return tensor
    const [rows, columns] = tensor.shape
    return { ...tensor, shape: [rows - 1, columns], data: tensor.data.subarray(0, -2 * columns) }
  })
  writeTensors(join(target, 'model.safetensors'), tensors)
}
