/** `calibrate` and what its files are for, through the command line. */
import fs from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { calibratedPass } from '../../src/calibrate/pass.ts'
import { sampleCalibration } from '../../src/calibrate/sample.ts'
import { openStatistics, tapName } from '../../src/calibrate/statistics-file.ts'
import { main } from '../../src/cli/main.ts'
import type { Statistics } from '../../src/contracts.ts'
import { createEngine } from '../../src/engine/ort/session.ts'
import { loadModel } from '../../src/evaluate/load-model.ts'
import { nodeFiles } from '../../src/io/files.ts'
import type { ModelProfile } from '../../src/profile.ts'
import { FakeProcess } from '../cli/fake-process.ts'
import { type Ended, hashesOf, quantizeTo, run, tinyLlama } from '../helpers/command-line.ts'
import { sha256, soundFacts, soundTensors, statisticsBytes } from '../helpers/statistics.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
let outputs = 0
const fresh = (): string => join(folder, `out${outputs++}`)
const few = ['--samples', '8', '--seq-len', '64'] as const

const calibrateTo = async (path: string, ...args: readonly string[]): Promise<string> => {
  const { code, stderr } = await run('calibrate', ...args, '-o', path)
  if (code !== 0) throw new Error(`exit ${code}: ${stderr}`)
  return path
}

const stats = join(folder, 'stats.safetensors')
await calibrateTo(stats, tinyLlama, ...few)

/** The last line of what went wrong, which is the only one of an error. */
const errorOf = ({ stderr }: Ended): string => {
  const errors = stderr
    .trim()
    .split('\n')
    .filter(line => line.startsWith('error: '))
  expect(errors).toHaveLength(1)
  return errors[0]
}

describe('calibrate', () => {
  it('writes statistics of every input, and says of what', async () => {
    const path = join(folder, 'json.safetensors')
    const { code, stdout } = await run('calibrate', tinyLlama, ...few, '-o', path, '--json', '--threads', '1')
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({ output: path, entries: 16, tokens: 512, calibration: { seed: 0 } })
    expect(fs.readFileSync(path).equals(fs.readFileSync(stats)), 'the same bytes on one thread').toBe(true)
    const file = openStatistics(path, nodeFiles)
    expect(file.taps.size).toBe(16)
    expect(Object.keys(file.facts.model)).toEqual(['model.safetensors'])
    expect(new Set(Object.values(file.facts.counts))).toEqual(new Set([512]))
    file.close()
    expect(fs.existsSync(`${path}.partial`)).toBe(false)
  })

  it.each<[string, readonly string[], RegExp]>([
    ['an output that exists', ['-o', stats], /exists; give another -o, or --overwrite/],
    ['an output that is a folder', ['-o', join(tinyLlama, '..', 'x.safetensors'), '--overwrite'], /is no file/],
    ['a name of no known kind', ['-o', 'x.bin'], /must end in \.safetensors/],
    ['--no-resume of an importance matrix', ['-o', 'x.gguf', '--no-resume'], /--no-resume has no effect on x\.gguf/],
    [
      'options of a run with --merge',
      ['--merge', stats, '--no-resume', '-o', 'x.safetensors'],
      /--merge adds up files/,
    ],
    ['--merge into an importance matrix', ['--merge', stats, '-o', 'x.gguf'], /--merge writes statistics/],
  ])('refuses %s', async (_, args, says) => {
    const target = join(folder, 'a.safetensors')
    fs.mkdirSync(target, { recursive: true })
    const given = args.map(arg => (arg.endsWith('/x.safetensors') ? target : arg))
    const model = args.includes('--merge') ? stats : tinyLlama
    const ended = await run('calibrate', model, ...given)
    expect(ended.code).toBe(2)
    expect(errorOf(ended)).toMatch(says)
  })

  it('does not replace the model that it reads', async () => {
    const model = join(folder, 'own')
    fs.cpSync(tinyLlama, model, { recursive: true })
    const weights = join(model, 'model.safetensors')
    const ended = await run('calibrate', model, ...few, '-o', weights, '--overwrite')
    expect(ended.code).toBe(2)
    expect(errorOf(ended)).toContain('holds the model that is read')
    expect(fs.readFileSync(weights).equals(fs.readFileSync(join(tinyLlama, 'model.safetensors')))).toBe(true)
  })

  it('replaces a file with --overwrite, at once', async () => {
    const path = join(folder, 'replaced.safetensors')
    fs.writeFileSync(path, 'something else')
    await calibrateTo(path, tinyLlama, ...few, '--overwrite')
    expect(fs.readFileSync(path).equals(fs.readFileSync(stats))).toBe(true)
  })
})

describe('calibrate --merge', () => {
  it('gives what all windows together show, but for rounding to float32', async () => {
    const other = await calibrateTo(join(folder, 'seed1.safetensors'), tinyLlama, ...few, '--seed', '1')
    const merged = await calibrateTo(join(folder, 'merged.safetensors'), '--merge', stats, other)
    const { checkpoint, plain: model, read } = loadModel(tinyLlama, nodeFiles)
    const draw = async (seed: number) =>
      await sampleCalibration(checkpoint, model, { text: 'bundled', samples: 8, seqLen: 64, seed }, nodeFiles)
    const windows = [...(await draw(0)).windows, ...(await draw(1)).windows]
    const together = new Map<string, Statistics>()
    const engine = await createEngine(2)
    await calibratedPass(
      engine,
      model,
      windows,
      read,
      {
        known: () => undefined,
        async visit({ stage, statistics }) {
          together.set(tapName(stage), statistics)
          return new Map()
        },
      },
      { collect: new Set(['channels', 'histogram'] as const), onChunk() {} },
    )
    await engine.release()
    checkpoint.close()
    const file = openStatistics(merged, nodeFiles)
    expect([...file.taps.keys()]).toEqual([...together.keys()])
    expect(file.facts.texts.map(({ seed }) => seed)).toEqual([0, 1])
    for (const [tap, wanted] of together) {
      const found = file.read(tap)
      expect(found.count).toBe(wanted.count)
      expect(found.histogram).toEqual(wanted.histogram)
      expect(found.channels!.low).toEqual(wanted.channels!.low)
      expect(found.channels!.high).toEqual(wanted.channels!.high)
      const n = found.channels!.mean.length
      const size = (i: number): number => Math.sqrt(wanted.gram[i * n + i])
      const worst = { mean: 0, absMean: 0, gram: 0 }
      for (let i = 0; i < n; i++) {
        for (const part of ['mean', 'absMean'] as const)
          worst[part] = Math.max(
            worst[part],
            Math.abs(found.channels![part][i] - wanted.channels![part][i]) / wanted.channels!.absMean[i],
          )
        for (let j = 0; j < n; j++)
          worst.gram = Math.max(
            worst.gram,
            Math.abs(found.gram[i * n + j] - wanted.gram[i * n + j]) / (size(i) * size(j)),
          )
      }
      expect(worst.mean).toBeLessThanOrEqual(2 ** -22)
      expect(worst.absMean).toBeLessThanOrEqual(2 ** -22)
      expect(worst.gram).toBeLessThanOrEqual(2 ** -21) // sums of products in float32
    }
    file.close()
    // and a file that is merged already is one like any other
    const ended = await run('calibrate', '--merge', stats, merged, '-o', join(folder, 'twice.safetensors'))
    expect(ended.code).toBe(3)
    expect(errorOf(ended)).toMatch(/bundled with --seed 0 would count twice/)
  })

  it('refuses the same windows twice, and files of two models', async () => {
    const target = join(folder, 'never.safetensors')
    const twice = await run('calibrate', '--merge', stats, stats, '-o', target)
    expect(twice.code).toBe(3)
    expect(errorOf(twice)).toMatch(
      /bundled with --seed 0 would count twice; draw the windows of each file with a --seed/,
    )
    const other = join(folder, 'other.safetensors')
    fs.writeFileSync(other, statisticsBytes())
    const mixed = await run('calibrate', '--merge', stats, other, '-o', target)
    expect(mixed.code).toBe(3)
    expect(errorOf(mixed)).toContain(`${other}: is of another model than ${stats}`)
    expect(fs.existsSync(target)).toBe(false)
  })
})

describe('quantize --stats', () => {
  const weightsOf = (output: string): Buffer => fs.readFileSync(join(output, 'model.safetensors'))

  it('gives rtn the errors of its outputs, and changes no weight', async () => {
    const [without, with_] = [fresh(), fresh()]
    const options = [tinyLlama, '--method', 'rtn', '--group', '64']
    const plain = await quantizeTo(without, ...options)
    const report = await quantizeTo(with_, ...options, '--stats', stats)
    expect(weightsOf(with_).equals(weightsOf(without))).toBe(true)
    expect(plain.linears.every(({ relativeOutputError }) => relativeOutputError === null)).toBe(true)
    for (const { relativeOutputError } of report.linears) expect(relativeOutputError).toBeGreaterThan(0)
    expect(report.statistics).toMatchObject({ of: 'unquantized model', file: stats, texts: [{ tokensUsed: 512 }] })
  })

  it('weighs the errors of the search for a range by the inputs', async () => {
    const [without, with_] = [fresh(), fresh()]
    const options = [tinyLlama, '--method', 'rtn', '--bits', '3', '--group', '64', '--clip', 'mse', '--format', 'gptq']
    await quantizeTo(without, ...options)
    await quantizeTo(with_, ...options, '--stats', stats)
    expect(weightsOf(with_).equals(weightsOf(without))).toBe(false)
  })

  it('gives gptq all it needs: the same bytes in two runs and on any number of threads', async () => {
    const options = [tinyLlama, '--group', '64', '--stats', stats]
    const reports = [
      await quantizeTo(fresh(), ...options, '--threads', '1'),
      await quantizeTo(fresh(), ...options, '--threads', '2'),
      await quantizeTo(fresh(), ...options, '--threads', '2'),
    ]
    for (const report of reports.slice(1)) expect(hashesOf(report)).toEqual(hashesOf(reports[0]))
    const [{ linears, calibration }] = reports
    expect(calibration).toBeNull()
    // 512 tokens are too few for the 384 inputs of down_proj
    for (const { name, method, fallback } of linears) {
      expect(method, name).toBe(name.endsWith('down_proj') ? 'rtn' : 'gptq')
      if (method === 'rtn') expect(fallback).toMatch(/tokens/)
    }
  })

  it.each<readonly string[]>([
    ['--calib', 'bundled'],
    ['--samples', '4'],
    ['--seq-len', '64'],
    ['--seed', '1'],
    ['--correct', '0.5'],
  ])('refuses %s beside it', async (...option) => {
    const ended = await run(tinyLlama, '--stats', stats, ...option, '-o', fresh())
    expect(ended.code).toBe(2)
    expect(errorOf(ended)).toMatch(
      option[0] === '--correct' ? /--correct follows a model/ : /has no effect with --stats/,
    )
  })

  /** The statistics of tiny-llama with other metadata. */
  const withFacts = (name: string, change: (facts: typeof soundFacts) => object): string => {
    const bytes = fs.readFileSync(stats)
    const end = 8 + Number(bytes.readBigUInt64LE())
    const header = JSON.parse(bytes.subarray(8, end).toString())
    const facts = change(JSON.parse(header.__metadata__.quantize_statistics))
    header.__metadata__.quantize_statistics = JSON.stringify(facts)
    const json = Buffer.from(JSON.stringify(header))
    const length = Buffer.alloc(8)
    length.writeBigUInt64LE(BigInt(json.length))
    const path = join(folder, name)
    fs.writeFileSync(path, Buffer.concat([length, json, bytes.subarray(end)]))
    return path
  }

  it.each<readonly [string, (file: string) => readonly string[]]>([
    ['rtn', file => [tinyLlama, '--method', 'rtn', '--group', '64', '--stats', file, '-o', join(folder, 'no')]],
    ['gptq', file => [tinyLlama, '--group', '64', '--stats', file, '-o', join(folder, 'no')]],
    ['inspect', file => ['inspect', tinyLlama, '--stats', file]],
  ])('is refused by %s when it is of another model, or of other shapes, in one line', async (_, command) => {
    const sameNames = withFacts('hashes.safetensors', facts => ({ ...facts, model: { 'model.safetensors': sha256 } }))
    const otherNames = withFacts('names.safetensors', facts => ({ ...facts, model: { 'a.safetensors': sha256 } }))
    const file = openStatistics(stats, nodeFiles)
    const otherTaps = join(folder, 'taps.safetensors')
    fs.writeFileSync(otherTaps, statisticsBytes({ ...soundFacts, model: file.facts.model }))
    const first = 'model.layers.0.self_attn.q_proj'
    const otherWidths = join(folder, 'widths.safetensors')
    const renamed = JSON.stringify({ ...soundFacts, model: file.facts.model }).replaceAll('a.q_proj', first)
    const tensors = Object.entries(soundTensors).map(([name, raw]) => [name.replace('a.q_proj', first), raw])
    fs.writeFileSync(otherWidths, statisticsBytes(renamed, Object.fromEntries(tensors)))
    file.close()
    for (const [path, says] of [
      [sameNames, 'is of another model: model.safetensors has another content'],
      [otherNames, 'is of another model: model.safetensors is not of it'],
      [otherTaps, `has no input of ${first}`],
      [otherWidths, `the input of ${first} has 3 channels; the model has 128`],
      [join(tinyLlama, 'model.safetensors'), 'holds no statistics; `quantize calibrate <model> -o` writes them'],
    ]) {
      const ended = await run(...command(path))
      expect(ended.code).toBe(3)
      expect(errorOf(ended)).toContain(`${path}: ${says}`)
      expect(ended.stderr.trim().split('\n')).toHaveLength(1)
      expect(fs.existsSync(join(folder, 'no'))).toBe(false)
      expect(fs.existsSync(join(folder, 'no.partial'))).toBe(false)
    }
  })

  it.each<[string, Uint8Array, RegExp]>([
    ['cut off', fs.readFileSync(stats).subarray(0, -1), /bytes/],
    ['no JSON', statisticsBytes('{'), /is not JSON/],
    ['of another version', statisticsBytes({ ...soundFacts, statistics: 2 }), /no statistics of version 1/],
    ['of negative counts', statisticsBytes({ ...soundFacts, counts: { 'a.q_proj': -1 } }), /version 1: counts/],
    ['empty', new Uint8Array(), /lies\.safetensors/],
  ])('is refused by every command that reads it when it is %s', async (_, bytes, says) => {
    const path = join(folder, 'lies.safetensors')
    fs.writeFileSync(path, bytes)
    const [output, merged] = [fresh(), join(folder, 'lies-merged.safetensors')]
    for (const args of [
      [tinyLlama, '--method', 'rtn', '--group', '64', '--stats', path, '-o', output],
      ['inspect', tinyLlama, '--stats', path],
      ['calibrate', '--merge', stats, path, '-o', merged],
    ]) {
      const ended = await run(...args)
      expect(ended.code).toBe(3)
      expect(errorOf(ended)).toMatch(says)
      expect(ended.stderr.trim().split('\n')).toHaveLength(1)
    }
    for (const path of [output, `${output}.partial`, merged, `${merged}.tmp`]) expect(fs.existsSync(path)).toBe(false)
  })

  it('is refused when its values turn out untrue in the middle of a run, which keeps nothing of it', async () => {
    const bytes = fs.readFileSync(stats)
    bytes.writeFloatLE(Number.NaN, bytes.length - 4) // of the last tensor of the last tap by name
    const path = join(folder, 'nan.safetensors')
    fs.writeFileSync(path, bytes)
    const output = fresh()
    const ended = await run(tinyLlama, '--group', '64', '--stats', path, '-o', output)
    expect(ended.code).toBe(3)
    expect(errorOf(ended)).toMatch(/nan\.safetensors: \S+ holds a value that is not finite/)
    expect(fs.existsSync(output)).toBe(false)
    expect(fs.existsSync(`${output}.partial`)).toBe(false)
  })
})

describe('inspect --stats', () => {
  it("shows what stands out: the three channels that tiny-llama's norms enlarge", async () => {
    const { code, stdout } = await run('inspect', tinyLlama, '--stats', stats, '--json')
    expect(code).toBe(0)
    const { taps, weights } = JSON.parse(stdout) as ModelProfile
    expect(taps).toHaveLength(16)
    expect(weights).toHaveLength(28)
    for (const { name, outlierChannels, channelsAbove6, kurtosis, peak, histogram, min, max, rms } of taps) {
      const behindNorm = /q_proj|gate_proj/.test(name)
      expect(outlierChannels, name).toBe(behindNorm ? 3 : 0)
      if (behindNorm) {
        expect(channelsAbove6).toBe(3)
        expect(kurtosis).toBeGreaterThan(50)
      }
      expect(peak).toBeCloseTo(Math.max(max, -min) / rms, 9)
      expect(histogram.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 9)
    }
    for (const { outlierChannels, channelsAbove6 } of weights) {
      expect(outlierChannels).toBe(0)
      expect(channelsAbove6).toBeNull()
    }
  })

  it('agrees with the statistics, and with the weights', async () => {
    const { stdout } = await run('inspect', tinyLlama, '--stats', stats, '--json')
    const { taps, weights } = JSON.parse(stdout) as ModelProfile
    const file = openStatistics(stats, nodeFiles)
    for (const { name, rms, min, max } of taps) {
      const { gram, channels } = file.read(name)
      const n = channels!.mean.length
      const squares = Array.from({ length: n }, (_, i) => gram[i * n + i])
      expect(rms).toBeCloseTo(Math.sqrt(squares.reduce((a, b) => a + b, 0) / n), 9)
      expect([min, max]).toEqual([Math.min(...channels!.low), Math.max(...channels!.high)])
    }
    file.close()
    const { checkpoint, plain, read } = loadModel(tinyLlama, nodeFiles)
    const linears = plain.blocks.flatMap(({ stages }) => stages.flatMap(stage => stage.linears))
    for (const [i, { name, weight }] of linears.entries()) {
      const values = [...read(weight)]
      const moment = (power: number): number => values.reduce((sum, w) => sum + w ** power, 0) / values.length
      expect(weights[i]).toMatchObject({ name, min: Math.min(...values), max: Math.max(...values) })
      expect(weights[i].kurtosis).toBeCloseTo(moment(4) / moment(2) ** 2, 6)
    }
    checkpoint.close()
  })

  it('prints a table of inputs and one of weights', async () => {
    const { code, stdout } = await run('inspect', tinyLlama, '--stats', stats)
    expect(code).toBe(0)
    const lines = stdout.split('\n')
    expect(lines[1]).toMatch(/min +max +rms +max\/rms +kurtosis +outliers +>= 6/)
    expect(lines.find(line => line.startsWith('model.layers.0.self_attn.q_proj'))).toMatch(/ 3 +3 {2}[ ▁▂▃▄▅▆▇█]{10}$/)
    expect(lines.filter(line => /^model\.layers\.\d/.test(line))).toHaveLength(16 + 28)
  })
})

describe('a calibrate that was interrupted', () => {
  /** Sends SIGINT once stderr says this. */
  const interrupted = async (at: string, ...args: readonly string[]): Promise<Ended> => {
    const fake = new FakeProcess(args)
    const write = fake.stderr.write.bind(fake.stderr)
    let sent = false
    fake.stderr.write = text => {
      if (!sent && text.includes(at)) {
        sent = true
        fake.emit('SIGINT', 'SIGINT')
      }
      return write(text)
    }
    await main(fake)
    return { code: Number(fake.exitCode), stdout: fake.stdout.text, stderr: fake.stderr.text }
  }
  const cut = async (name: string): Promise<readonly string[]> => {
    const args = ['calibrate', tinyLlama, ...few, '-o', join(folder, `${name}.safetensors`)]
    const { code, stderr } = await interrupted('layers.1', ...args)
    expect(code).toBe(130)
    expect(stderr).toMatch(/\d finished inputs are in \S+\.partial: the same command goes on from there/)
    expect(fs.existsSync(args.at(-1)!)).toBe(false)
    return args
  }
  afterAll(() => expect(fs.readdirSync(folder).filter(name => name.endsWith('.partial'))).toEqual([]))

  it('goes on where it was, to the same bytes', async () => {
    const args = await cut('resumed')
    const { code, stderr } = await run(...args)
    expect(code).toBe(0)
    expect(stderr).toMatch(/going on: [1-9]\d? inputs were finished by an earlier run/)
    expect(fs.readFileSync(args.at(-1)!).equals(fs.readFileSync(stats))).toBe(true)
  })

  it.each<[string, readonly string[], string]>([
    ['samples', ['--samples', '9', '--seq-len', '64'], 'recipe.samples: 8, now 9'],
    ['windows', ['--samples', '8', '--seq-len', '32'], 'recipe.seqLen: 64, now 32'],
    ['seed', [...few, '--seed', '1'], 'recipe.seed: 0, now 1'],
    ['text', [...few, '--calib', join(tinyLlama, 'held.txt')], 'the calibration text'],
  ])('is not gone on with for another %s, but --no-resume starts over', async (name, options, says) => {
    const args = await cut(name)
    const other = ['calibrate', tinyLlama, ...options, '-o', args.at(-1)!]
    const ended = await run(...other)
    expect(ended.code).toBe(2)
    expect(errorOf(ended)).toContain(
      `holds an unfinished run of other inputs (${says}); --no-resume starts over, the earlier command finishes it`,
    )
    const { code, stderr } = await run(...other, '--no-resume')
    expect(code).toBe(0)
    expect(stderr).not.toContain('going on')
  })

  it('is not gone on with for another model', async () => {
    const model = join(folder, 'changed')
    fs.cpSync(tinyLlama, model, { recursive: true })
    const args = ['calibrate', model, ...few, '-o', join(folder, 'changed.safetensors')]
    expect((await interrupted('layers.1', ...args)).code).toBe(130)
    const weights = fs.readFileSync(join(model, 'model.safetensors'))
    weights[weights.length - 1] ^= 1
    fs.writeFileSync(join(model, 'model.safetensors'), weights)
    expect(errorOf(await run(...args))).toContain('(the content of model.safetensors)')
    expect((await run(...args, '--no-resume')).code).toBe(0)
  })

  it('leaves nothing when nothing was finished', async () => {
    const path = join(folder, 'early.safetensors')
    const { code, stderr } = await interrupted('calibrate', 'calibrate', tinyLlama, ...few, '-o', path)
    expect(code).toBe(130)
    expect(stderr).not.toContain('goes on')
    expect(fs.existsSync(`${path}.partial`)).toBe(false)
  })
})
