import fs from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { main } from '../../src/cli/main.ts'
import { type Report, reportSchema } from '../../src/report/schema.ts'
import { FakeProcess } from '../cli/fake-process.ts'

export const tinyLlama = fileURLToPath(new URL('../../fixtures/tiny-llama', import.meta.url))

export interface Ended {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** `quantize ...args` in this process. */
export const run = async (...args: readonly string[]): Promise<Ended> => {
  const fake = new FakeProcess(args)
  await main(fake)
  return { code: Number(fake.exitCode), stdout: fake.stdout.text, stderr: fake.stderr.text }
}

/** Few and short windows: what a test of the path needs, not of the quality. */
export const quick = ['--samples', '16', '--seq-len', '64'] as const

export const readReport = (output: string): Report =>
  reportSchema.parse(JSON.parse(fs.readFileSync(join(output, 'quantize-report.json'), 'utf8')))

/** Quantizes and expects success. */
export const quantizeTo = async (output: string, ...args: readonly string[]): Promise<Report> => {
  const { code, stderr } = await run(...args, '-o', output)
  if (code !== 0) throw new Error(`exit ${code}: ${stderr}`)
  return readReport(output)
}

export const readConfig = (output: string): Readonly<Record<string, unknown>> =>
  JSON.parse(fs.readFileSync(join(output, 'config.json'), 'utf8'))

/** SHA-256 of each file of an output that is the same in every run: all but the report, which has times in it. */
export const hashesOf = ({ outputs }: Report): Record<string, string> =>
  Object.fromEntries(Object.entries(outputs).map(([name, { sha256 }]) => [name, sha256]))
