/**
 * Does what we write load in its own runtime, with the same values; and do we read what others write? docs/interop.md
 *
 *     npm run interop -- --a PYTHON --b PYTHON --c PYTHON [--only WORD] [--model NAME=FOLDER:TEXT ...] [--peers FOLDER]
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { everyCase, peerOf } from './cases.ts'
import { checkCase, checkPeer, type Model, type Settings } from './check.ts'
import { LoaderProcess } from './programs.ts'
import { asLine, asTable, type Row } from './table.ts'

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url))

const fixture: Model = {
  name: 'tiny-llama',
  folder: here('../fixtures/tiny-llama'),
  text: here('../fixtures/tiny-llama/held.txt'),
}

interface Options {
  readonly a?: string
  readonly b?: string
  readonly c?: string
  readonly only: readonly string[]
  readonly model: readonly Model[]
  readonly peers?: string
  readonly samples: string
  readonly seqLen: string
  readonly windows: string
}

/** NAME=FOLDER:TEXT */
const readModel = (value: string, before: readonly Model[]): readonly Model[] => {
  const match = /^([^=]+)=(.+):([^:]+)$/.exec(value)
  if (!match) throw new Error(`--model ${value}: not NAME=FOLDER:TEXT`)
  const [, name, folder, text] = match
  return [...before, { name, folder: resolve(folder), text: resolve(text) }]
}

const collect = (value: string, before: readonly string[]): readonly string[] => [...before, value]

const python = (program: string | undefined) => program && new LoaderProcess(program, [here('load.py')])

const processesOf = ({ a, b, c }: Options) => ({
  a: python(a) || undefined,
  b: python(b) || undefined,
  c: python(c) || undefined,
  node: new LoaderProcess(process.execPath, ['--import', import.meta.resolve('tsx'), here('load-onnx.ts')]),
})

/** The checks of a run, in order; each gives its rows. */
const checksOf = function* (models: readonly Model[], options: Options, settings: Settings) {
  const asked = (...names: readonly string[]): boolean =>
    options.only.length === 0 || options.only.some(word => names.join(' ').includes(word))
  for (const model of models) {
    if (options.peers === undefined) {
      for (const wanted of everyCase)
        if (asked(wanted.format, wanted.grid, `${wanted.bits}bit`, wanted.method, ...wanted.more))
          yield checkCase(model, wanted, settings)
    } else {
      const parent = resolve(options.peers)
      for (const name of readdirSync(parent).sort())
        if (asked(name) && peerOf(name)) yield checkPeer(model, parent, name, settings)
    }
  }
}

const main = async (options: Options): Promise<void> => {
  const models = options.model.length > 0 ? options.model : [fixture]
  const processes = processesOf(options)
  const scratch = mkdtempSync(join(tmpdir(), 'quantize-interop-'))
  const { samples, seqLen, windows } = options
  const settings: Settings = { samples, seqLen, windows, unfit: 'keep', scratch, processes }
  const rows: Row[] = []
  try {
    for (const check of checksOf(models, options, settings)) {
      const found = await check
      for (const row of found) process.stderr.write(`${asLine(row)}\n`)
      rows.push(...found)
    }
  } finally {
    for (const loader of Object.values(processes)) loader?.close()
    rmSync(scratch, { recursive: true, force: true })
  }
  process.stdout.write(`${asTable(rows)}\n`)
  process.exitCode = rows.length > 0 && rows.every(isGreen) ? 0 : 1
}

/** Every case fits the fixture; other models may have linears that no group of a case divides. */
const isGreen = ({ model, outcome }: Row): boolean =>
  outcome === 'ok' || (outcome === 'does not fit' && model !== fixture.name)

new Command('interop')
  .option('--a <python>', 'transformers, compressed-tensors, bitsandbytes, optimum-quanto, hqq, mlx-lm, onnxruntime')
  .option('--b <python>', 'GPTQModel')
  .option('--c <python>', 'llm-compressor')
  .option(
    '--only <word>',
    'only cases whose format, grid, width (4bit), method or options have this word; may be given again',
    collect,
    [],
  )
  .option('--model <name=folder:text>', 'a model folder and a text to score; may be given again', readModel, [])
  .option('--peers <folder>', 'read the checkpoints in this folder (peers.py) instead; they are of the one model')
  .option('--samples <n>', 'calibration windows', '32')
  .option('--seq-len <n>', 'tokens of a window, in calibration and scoring', '256')
  .option('--windows <n>', 'windows scored', '8')
  .action(main)
  .parse()
