/**
 * Does rounding to nearest write llama.cpp's own bytes?
 *
 *     npx tsx interop/ggml.ts --a PYTHON [MODEL ... --calib TEXT] [--only WORD]
 *
 * Two matrices of 2048 × 4096, one of them with outliers, to every type, with and without importances, beside ggml_quantize_chunk; and each MODEL folder,
 * as float16, to every mix, without and with an importance matrix of TEXT, beside llama_model_quantize. Equal on x86-64 and with llama.cpp compiled without
 * fused multiply-add (docs/gguf.md).
 */
import { createHash } from 'node:crypto'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { Command } from 'commander'
import { bytesOf } from '../src/dtype/bytes.ts'
import { createKernels, type Kernels } from '../src/engine/kernel/pool.ts'
import { roundBlocks } from '../src/engine/kernel/round-blocks.ts'
import { type MixName, mixes } from '../src/gguf/mixes.ts'
import { isRounded, roundedTypes } from '../src/gguf/types.ts'
import { pythonJson, quantize } from './programs.ts'

const script = new URL('ggml.py', import.meta.url)
const [rows, columns] = [2048, 4096]

/** Uniform numbers of [0, 1), the same in every run (xorshift32). */
const uniform = (seed: number) => {
  let state = seed
  return (): number => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32
  }
}

/** Bell-shaped, of standard deviation 0.02. */
const bell = (seed: number): Float32Array => {
  const next = uniform(seed)
  return Float32Array.from({ length: rows * columns }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - next()))
    return 0.02 * radius * Math.cos(2 * Math.PI * next())
  })
}

/** Every 97th column, and one weight of a thousand, is fifty times as large. */
const withOutliers = (seed: number): Float32Array => {
  const next = uniform(seed + 1)
  return bell(seed).map((value, i) => ((i % columns) % 97 === 13 || next() < 0.001 ? 50 * value : value))
}

/** Heavy-tailed, and no input is without. */
const importances = (): Float32Array => {
  const next = uniform(3)
  return Float32Array.from({ length: columns }, () => 0.01 - Math.log(1 - next()) ** 3)
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

interface Run {
  readonly python: string
  /** For files. */
  readonly folder: string
  readonly asked: (...names: readonly string[]) => boolean
  readonly tell: (what: string, equal: boolean, more?: string) => void
}

const checkMatrices = async (kernels: Kernels, { python, folder, asked, tell }: Run): Promise<void> => {
  const weights = importances()
  const weightsFile = join(folder, 'importances.f32')
  writeFileSync(weightsFile, bytesOf(weights))
  for (const [name, values] of Object.entries({ random: bell(1), outliers: withOutliers(2) })) {
    const file = join(folder, `${name}.f32`)
    writeFileSync(file, bytesOf(values))
    const matrix = { name, out: rows, in: columns, dtype: 'F32', source: bytesOf(values) } as const
    const given = [...[rows, columns].map(String), file]
    for (const type of roundedTypes.filter(type => asked(type, name))) {
      const told = `${name} ${rows} × ${columns}, ${type}`
      const plain = sha256(await roundBlocks(kernels, matrix, type))
      tell(told, plain === pythonJson(python, script, 'blocks', type, ...given).sha256)
      const weighted = sha256(await roundBlocks(kernels, matrix, type, weights))
      tell(
        `${told}, importances`,
        weighted === pythonJson(python, script, 'blocks', type, ...given, weightsFile).sha256,
      )
    }
  }
}

const onlyFile = (folder: string): string => join(folder, readdirSync(folder).find(name => name.endsWith('.gguf'))!)

/** @param imatrix none, or one file */
const checkMix = (source: string, mix: MixName, imatrix: readonly string[], { python, folder, tell }: Run): void => {
  const ours = join(folder, 'ours')
  const weighing = imatrix.flatMap(file => ['--imatrix', file])
  quantize(source, '--method', 'rtn', '--format', `gguf:${mix}`, ...weighing, '--overwrite', '-o', ours)
  const how = [String(mixes[mix].fileType), String(availableParallelism()), ...imatrix]
  const { tensors, other, bytes } = pythonJson(python, script, 'model', source, onlyFile(ours), ...how)
  const some = `${other.length} differ: ${other.slice(0, 3).join(', ')}`
  const told = `${basename(source)} ${mix}${weighing.length > 0 ? ', imatrix' : ''}`
  tell(told, other.length === 0, other.length > 0 ? some : `${tensors} tensors, ${bytes[0]} bytes`)
}

const checkModel = (model: string, calib: string | undefined, run: Run): void => {
  const plain = join(run.folder, 'plain')
  quantize('convert', model, '--format', 'gguf:f16', '--overwrite', '-o', plain)
  const imatrix = join(run.folder, 'imatrix.gguf')
  const text = ['--samples', '16', '--calib', calib!]
  if (calib !== undefined) quantize('calibrate', model, ...text, '--overwrite', '-o', imatrix)
  for (const mix of Object.keys(mixes) as MixName[]) {
    const { base } = mixes[mix]
    // llama.cpp has MXFP4 for experts only
    if (!isRounded(base) || base === 'MXFP4' || !run.asked(mix, basename(model))) continue
    checkMix(onlyFile(plain), mix, [], run)
    if (calib !== undefined) checkMix(onlyFile(plain), mix, [imatrix], run)
  }
}

interface Options {
  readonly a: string
  readonly calib?: string
  readonly only: readonly string[]
}

const main = async (models: readonly string[], { a, calib, only }: Options): Promise<void> => {
  const folder = mkdtempSync(join(tmpdir(), 'quantize-ggml-'))
  const kernels = await createKernels(availableParallelism())
  const counts = { equal: 0, different: 0 }
  const run: Run = {
    python: a,
    folder,
    asked: (...names) => only.length === 0 || only.some(word => names.join(' ').includes(word)),
    tell: (what, equal, more = '') => {
      counts[equal ? 'equal' : 'different']++
      process.stdout.write(`${equal ? 'equal    ' : 'DIFFERENT'} ${what}${more && `: ${more}`}\n`)
    },
  }
  try {
    await checkMatrices(kernels, run)
    for (const model of models) checkModel(model, calib, run)
  } finally {
    await kernels.close()
    rmSync(folder, { recursive: true, force: true })
  }
  process.stdout.write(`${counts.equal} equal, ${counts.different} different\n`)
  process.exitCode = counts.equal > 0 && counts.different === 0 ? 0 : 1
}

new Command('ggml')
  .argument('[models...]', 'model folders')
  .requiredOption('--a <python>', 'environment a, with llama-cpp-python')
  .option('--calib <file>', 'text of the importance matrix; none: only without')
  .option(
    '--only <word>',
    'only types, mixes, matrices and models with the word; may be given again',
    (value, before: readonly string[]) => [...before, value],
    [],
  )
  .action(main)
  .parse()
