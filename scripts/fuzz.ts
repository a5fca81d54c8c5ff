/**
 * Long runs of the fuzzers of test/fuzz: `npm run fuzz -- --minutes 10 [--parser safetensors] [--executions 1000000] [--seed 1]`. The time, if
 * given, is shared by the parsers; each also stops after its executions. A crash is written into a file and ends the run with exit code 1.
 */
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { parseArgs } from 'node:util'
import fc from 'fast-check'
import { execute } from '../test/fuzz/execute.ts'
import { type Parser, parsers } from '../test/fuzz/parsers.ts'

const { values } = parseArgs({
  options: {
    minutes: { type: 'string' },
    parser: { type: 'string' },
    executions: { type: 'string' },
    seed: { type: 'string', default: String(Date.now() % 2 ** 31) },
  },
})

const numberOf = (text: string | undefined, otherwise: number): number => {
  const number = text === undefined ? otherwise : Number(text)
  if (!(number > 0)) throw new Error(`${text} is not a positive number`)
  return number
}

const chosen = parsers.filter(({ name }) => values.parser === undefined || values.parser === name)
if (chosen.length === 0) throw new Error(`no parser ${values.parser}; there are ${parsers.map(({ name }) => name)}`)

const seed = Number(values.seed)
const executions = numberOf(values.executions, Number.POSITIVE_INFINITY)
const endlessMinutes = values.executions === undefined ? 1 : Number.POSITIVE_INFINITY
const msEach = (numberOf(values.minutes, endlessMinutes) * 60_000) / chosen.length
let crashFolder: string | undefined

interface Result {
  executions: number
  accepted: number
  crashes: number
  slowestMs: number
  largestAllocation: number
}

const keepCrash = (parser: Parser, number: number, file: Uint8Array, crash: string): void => {
  crashFolder ??= mkdtempSync(join(tmpdir(), 'quantize-fuzz-'))
  const path = join(crashFolder, `${parser.name}-${number}`)
  writeFileSync(path, file)
  process.stdout.write(`${parser.name}: ${crash}\n  file: ${path}\n`)
}

const batchSize = 500
const maxCrashes = 20

const fuzz = async (parser: Parser): Promise<Result> => {
  const result: Result = { executions: 0, accepted: 0, crashes: 0, slowestMs: 0, largestAllocation: 0 }
  const end = performance.now() + msEach
  for (let batch = 0; performance.now() < end && result.executions < executions && result.crashes < maxCrashes; batch++)
    for (const file of fc.sample(parser.file, { numRuns: batchSize, seed: (seed + batch * 7919) | 0 })) {
      const { accepted, elapsedMs, allocatedBytes, crash } = await execute(parser, file)
      result.executions++
      if (accepted) result.accepted++
      result.slowestMs = Math.max(result.slowestMs, elapsedMs)
      result.largestAllocation = Math.max(result.largestAllocation, allocatedBytes)
      if (crash !== undefined) keepCrash(parser, ++result.crashes, file, crash)
    }
  await parser.close?.()
  return result
}

process.stdout.write(`seed ${seed}\n`)
for (const parser of chosen) {
  const { slowestMs, largestAllocation, ...counts } = await fuzz(parser)
  if (counts.crashes > 0) process.exitCode = 1
  process.stdout.write(
    `${parser.name}: ${counts.executions} executions, ${counts.accepted} accepted, ${counts.crashes} crashes; ` +
      `slowest ${slowestMs.toFixed(1)} ms, largest allocation ${largestAllocation} bytes\n`,
  )
}
