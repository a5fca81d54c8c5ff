/** One run of a small model whose n-th file operation fails, and the run that goes on after it. */
import fs from 'node:fs'
import { join } from 'node:path'
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.ts'
import { readJsonObject } from '../../src/checkpoint/read-json.ts'
import { planFile } from '../../src/checkpoint/shard-plan.ts'
import type { TensorSource } from '../../src/contracts.ts'
import { QuantizeError } from '../../src/errors.ts'
import type { Clock } from '../../src/io/clock.ts'
import { type Files, nodeFiles } from '../../src/io/files.ts'
import { planMemory } from '../../src/memory.ts'
import { buildModel } from '../../src/model/graph.ts'
import { runPlan } from '../../src/pipeline.ts'
import { planRun } from '../../src/plan.ts'
import type { Report } from '../../src/progress.ts'
import { type RecipeRequest, resolveRecipe } from '../../src/recipe.ts'
import { hashesOf, readReport, tinyLlama } from './command-line.ts'

export const faults = ['full disk', 'device error', 'short read'] as const
export type Fault = (typeof faults)[number]

/** Clearing up after a failure must work for the promise to hold; the system may fail that too, but then nobody can help. */
const spared: readonly (keyof Files)[] = ['close', 'remove']

/** The files of the machine, whose n-th call fails (none for a negative n); `calls` are their names. */
export const failing = (n: number, fault: Fault) => {
  const calls: string[] = []
  const wrap = (name: keyof Files, real: (...args: never[]) => unknown) => {
    if (spared.includes(name)) return real
    return (...args: never[]) => {
      if (calls.push(name) - 1 !== n) return real(...args)
      if (fault === 'short read') return name === 'readAt' ? 0 : real(...args)
      throw new QuantizeError(fault === 'full disk' ? 'exhausted' : 'bad-input', `${name}: ${fault}`)
    }
  }
  const files = Object.fromEntries(
    Object.entries(nodeFiles).map(([name, real]) => [name, wrap(name as keyof Files, real as never)]),
  ) as unknown as Files
  return { files, calls }
}

/** A clock that stands still: every finished linear is made durable at once, in every run. */
const clock: Clock = { now: () => 0, peakMemoryBytes: () => 0 }

/** @param source a folder with model.safetensors, config.json and, for a calibrated method, tokenizer.json */
export const runOnce = async (
  source: string,
  request: RecipeRequest,
  files: Files,
  output: string,
  resume = true,
  progress: Report = () => {},
): Promise<void> => {
  const checkpoint = openCheckpoint(join(source, 'model.safetensors'), files)
  try {
    const config = readJsonObject(join(source, 'config.json'), files)!
    const plan = planRun(checkpoint, buildModel(config, checkpoint.tensors, 'config.json'), resolveRecipe(request))
    const memory = planMemory(plan, Number.POSITIVE_INFINITY, 1)
    const context = { files, clock, memory, threads: 1, progress, signal: new AbortController().signal }
    await runPlan(plan, checkpoint, config, output, { overwrite: false, resume }, context)
  } finally {
    checkpoint.close()
  }
}

/**
 * The first block of tiny-llama as a model of its own: few file operations, yet each kind of them.
 * @param changed gives the source of a tensor that is to be another
 */
export const writeSmallModel = (folder: string, changed = (source: TensorSource): TensorSource => source): void => {
  fs.cpSync(tinyLlama, folder, { recursive: true })
  const checkpoint = openCheckpoint(tinyLlama, nodeFiles)
  const tensors = [...checkpoint.tensors.values()].filter(({ name }) => !/layers\.[1-9]/.test(name)).map(changed)
  const { header, tensors: placed, bytes } = planFile('model.safetensors', tensors, { format: 'pt' })
  const file = new Uint8Array(bytes)
  file.set(header)
  for (const [i, { offset }] of placed.entries()) file.set(tensors[i].read(), offset)
  checkpoint.close()
  fs.writeFileSync(join(folder, 'model.safetensors'), file)
  const config = JSON.parse(fs.readFileSync(join(folder, 'config.json'), 'utf8'))
  fs.writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, num_hidden_layers: 1 }))
}

/** All that must be the same in two outputs: hashes of all files, and the report (no clock runs in it). */
export const contentOf = (output: string) => ({
  names: fs.readdirSync(output),
  hashes: hashesOf(readReport(output)),
  report: readReport(output),
})

export interface Attempt {
  /** What the failed run threw; undefined when the fault could not happen to that call. */
  readonly error: unknown
  /** What stood under the final name after it, and whether something was left to go on from. */
  readonly published: boolean
  readonly resumable: boolean
}

/** Fails call n of a run, then runs again without a fault. */
export const attempt = async (
  source: string,
  request: RecipeRequest,
  n: number,
  fault: Fault,
  output: string,
): Promise<Attempt> => {
  const error = await runOnce(source, request, failing(n, fault).files, output).then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  const published = fs.existsSync(output)
  const resumable = fs.existsSync(`${output}.partial`)
  if (error !== undefined) await runOnce(source, request, nodeFiles, output)
  return { error, published, resumable }
}
