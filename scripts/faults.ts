/**
 * Fails every file operation of a small run once, in each way, lets the next run finish it, and compares the bytes.
 *   npm run faults [-- --method rtn]
 */
import fs from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { QuantizeError } from '../src/errors.ts'
import type { RecipeRequest } from '../src/recipe.ts'
import { attempt, contentOf, failing, faults, runOnce, writeSmallModel } from '../test/helpers/faults.ts'

const { method } = new Command().option('--method <name>', 'rtn or gptq', 'gptq').parse().opts<{ method: string }>()
const calib = fileURLToPath(new URL('../fixtures/tiny-llama/held.txt', import.meta.url))
const data = method === 'rtn' ? {} : { calib, samples: 16, seqLen: 64 }
const request: RecipeRequest = { method, group: 64, ...data }
const root = fs.mkdtempSync(join(os.tmpdir(), 'quantize-faults-'))
const source = join(root, 'model')
writeSmallModel(source)
let bad = 0
try {
  const whole = failing(-1, 'full disk')
  await runOnce(source, request, whole.files, join(root, 'whole'))
  const expected = JSON.stringify(contentOf(join(root, 'whole')))
  const published = whole.calls.lastIndexOf('rename')
  for (const fault of faults) {
    let failed = 0
    let resumed = 0
    for (const [n, call] of whole.calls.entries()) {
      if (fault === 'short read' && call !== 'readAt') continue
      const output = join(root, 'out')
      const { error, ...left } = await attempt(source, request, n, fault, output)
      const problem =
        error !== undefined && !(error instanceof QuantizeError)
          ? `not foreseen: ${error}`
          : error !== undefined && left.published !== n > published
            ? 'an output that should not be there'
            : JSON.stringify(contentOf(output)) !== expected
              ? 'other bytes'
              : undefined
      if (problem !== undefined) {
        bad++
        process.stderr.write(`${fault} at call ${n} (${call}): ${problem}\n`)
      }
      if (error !== undefined) failed++
      if (left.resumable) resumed++
      fs.rmSync(output, { recursive: true, force: true })
    }
    process.stdout.write(
      `${method}, ${fault}: ${failed} of ${whole.calls.length} file operations failed once; ${resumed} left something to go on from; ${bad} problems so far\n`,
    )
  }
} finally {
  fs.rmSync(root, { recursive: true, force: true })
}
process.exitCode = bad > 0 ? 1 : 0
