/**
 * Kills runs at random, lets them go on, and compares every byte with an uninterrupted run.
 *   npm run crash -- --kills 200 [--seed 0] [--model <folder>[=<options>]]...
 * Half of the kills come at a random moment (forward pass, rounding, start), half at a random file operation, some in the middle of a
 * write; a third of the runs are killed more than once. Without --model: fixtures/tiny-llama by rtn and by gptq, and its statistics by calibrate.
 */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { reportSchema } from '../src/report/schema.ts'

const bin = fileURLToPath(new URL('../bin/quantize.js', import.meta.url))
const killer = new URL('./kill-at.js', import.meta.url).href
const tiny = fileURLToPath(new URL('../fixtures/tiny-llama', import.meta.url))

interface Trial {
  readonly name: string
  readonly args: readonly string[]
  /** Of the output's name. */
  readonly ending: string
}

interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly seconds: number
  readonly stderr: string
}

const run = async (args: readonly string[], env: Record<string, string>, killAfter?: number): Promise<Ended> => {
  const began = performance.now()
  const child = spawn(process.execPath, ['--import', killer, bin, ...args], {
    env: { ...process.env, KILL_AT: '-1', ...env },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let stderr = ''
  child.stderr.on('data', data => {
    stderr += data
  })
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code, signal, seconds: (performance.now() - began) / 1000, stderr }))
  })
  if (killAfter !== undefined) {
    await Promise.race([sleep(killAfter * 1000), ended])
    child.kill('SIGKILL')
  }
  return ended
}

const hashOf = (file: string): string => createHash('sha256').update(fs.readFileSync(file)).digest('hex')

/** Everything in an output that must not differ: hashes of files, and the report without times. */
const contentOf = (folder: string): string => {
  if (fs.statSync(folder).isFile()) return hashOf(folder)
  const hashes = fs
    .readdirSync(folder)
    .filter(name => name !== 'quantize-report.json')
    .map(name => [name, hashOf(join(folder, name))])
  const report = reportSchema.parse(JSON.parse(fs.readFileSync(join(folder, 'quantize-report.json'), 'utf8')))
  const linears = report.linears.map(linear => ({ ...linear, seconds: 0 }))
  return JSON.stringify([hashes, { ...report, linears, totals: { ...report.totals, seconds: 0, peakMemoryBytes: 0 } }])
}

/** xorshift32, in [0, 1). */
const randomFrom = (seed: number): (() => number) => {
  let state = (seed + 1) * 2654435761
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32
  }
}

const crash = async (
  { name, args, ending }: Trial,
  kills: number,
  random: () => number,
  root: string,
): Promise<boolean> => {
  const whole = join(root, `whole${ending}`)
  const counts = join(root, 'count')
  const first = await run([...args, '-o', whole], { KILL_COUNT: counts })
  if (first.code !== 0) throw new Error(`${name}: ${first.stderr}`)
  const expected = contentOf(whole)
  const calls = Number(fs.readFileSync(counts, 'utf8'))
  let done = 0
  let same = 0
  let resumed = 0
  for (let trial = 0; done < kills; trial++) {
    const output = join(root, `out${trial}${ending}`)
    const times = random() < 1 / 3 ? 1 + Math.ceil(random() * 2) : 1
    let died = 0
    for (let time = 0; time < times && done + died < kills; time++) {
      const byCall = random() < 0.5
      const env = { KILL_AT: String(Math.floor(random() * calls)), KILL_TORN: random() < 0.5 ? '1' : '0' }
      const { signal, code, stderr } = byCall
        ? await run([...args, '-o', output], env)
        : await run([...args, '-o', output], {}, random() * first.seconds)
      if (signal === 'SIGKILL') died++
      else if (code !== 0) throw new Error(`${name}, trial ${trial}: exit ${code}: ${stderr}`)
      if (signal !== 'SIGKILL') break
    }
    if (died === 0) {
      fs.rmSync(output, { recursive: true, force: true })
      continue
    }
    if (fs.existsSync(`${output}.partial`)) resumed++
    const end =
      fs.existsSync(output) && !fs.existsSync(`${output}.partial`)
        ? { code: 0, stderr: '' }
        : await run([...args, '-o', output], {})
    if (end.code !== 0) process.stderr.write(`${name}, trial ${trial}: exit ${end.code}: ${end.stderr}\n`)
    else if (fs.existsSync(`${output}.partial`))
      process.stderr.write(`${name}, trial ${trial}: the partial folder is left\n`)
    else if (contentOf(output) !== expected) process.stderr.write(`${name}, trial ${trial}: the bytes differ\n`)
    else same += died
    done += died
    fs.rmSync(output, { recursive: true, force: true })
    fs.rmSync(`${output}.partial`, { recursive: true, force: true })
  }
  process.stdout.write(
    `${name}: ${same} of ${done} kills ended in the same bytes (${calls} writing file operations a run, ${resumed} runs found something to go on from)\n`,
  )
  fs.rmSync(whole, { recursive: true })
  return same === done
}

const command = new Command()
  .requiredOption('--kills <n>', 'kills in all', Number)
  .option('--seed <n>', 'of the kills', Number, 0)
  .option(
    '--model <folder[=options]>',
    'a model and options, may be given again',
    (value, all: string[]) => [...all, value],
    [],
  )
  .parse()
const { kills, seed, model } = command.opts<{ kills: number; seed: number; model: string[] }>()
const quick = ['--samples', '64', '--seq-len', '64']
const trials: Trial[] = (model.length > 0 ? model : [tiny]).flatMap(given => {
  const [folder, options = ''] = given.split(/=(.*)/s)
  const extra = options.split(' ').filter(Boolean)
  const has = (flag: string): boolean => extra.includes(flag)
  return [
    {
      name: `${folder} rtn`,
      args: [folder, '--method', 'rtn', ...(has('--group') ? [] : ['--group', '64']), ...extra],
      ending: '',
    },
    {
      name: `${folder} gptq`,
      args: [folder, '--method', 'gptq', ...(has('--group') ? [] : ['--group', '64']), ...quick, ...extra],
      ending: '',
    },
    { name: `${folder} calibrate`, args: ['calibrate', folder, ...quick], ending: '.safetensors' },
  ]
})
const root = fs.mkdtempSync(join(os.tmpdir(), 'quantize-crash-'))
const random = randomFrom(seed)
let good = true
try {
  for (const [i, trial] of trials.entries()) {
    const share = Math.floor((kills * (i + 1)) / trials.length) - Math.floor((kills * i) / trials.length)
    good = (await crash(trial, share, random, root)) && good
  }
} finally {
  fs.rmSync(root, { recursive: true, force: true })
}
process.exitCode = good ? 0 : 1
