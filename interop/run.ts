/**
 * Does what we write load in its own runtime, with the same perplexity? `npm run interop -- --python ENV/bin/python MODEL...`
 * Quantizes each model in every layout of the format, scores each checkpoint by `quantize eval` and by the official loader (score.py),
 * and exits 1 when they differ by more than `--tolerance`.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import Table from 'cli-table3'
import { Command } from 'commander'
import { pythonJson, quantize } from './programs.ts'

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url))

/** One layout: options of `quantize`, and the loaders that read it. */
interface Layout {
  readonly options: string
  readonly loaders: readonly ('gptq' | 'hf')[]
}

const layouts: readonly Layout[] = [
  { options: '--bits 4 --group 64 --sym', loaders: ['gptq', 'hf'] },
  { options: '--bits 4 --group 64 --asym', loaders: ['gptq', 'hf'] },
  { options: '--bits 4 --group 32 --sym --clip mse --format gptq:v2', loaders: ['gptq'] },
  { options: '--bits 4 --group channel --sym', loaders: ['gptq'] },
  { options: '--bits 4 --group 64 --sym --act-order g_idx', loaders: ['gptq'] },
  { options: '--bits 2 --group 32 --sym', loaders: ['gptq'] },
  { options: '--bits 2 --group 32 --asym', loaders: ['gptq', 'hf'] },
  { options: '--bits 3 --group 64 --sym', loaders: ['gptq'] },
  { options: '--bits 3 --group 64 --asym --act-order g_idx', loaders: ['gptq'] },
  { options: '--bits 8 --group 64 --sym', loaders: ['gptq'] },
  { options: '--bits 8 --group 32 --asym', loaders: ['gptq'] },
  { options: '--method rtn --bits 4 --group 32 --sym', loaders: ['gptq'] },
]

interface Options {
  readonly python: string
  readonly text: string
  readonly samples: string
  readonly seqLen: string
  readonly windows: string
  readonly tolerance: string
  readonly unfit: string
}

/** The last line that a failed program wrote, or the error itself. */
const reasonOf = (error: unknown): string => {
  const { stderr } = error as { readonly stderr?: string }
  return (stderr ?? String(error)).trim().split('\n').at(-1)!
}

const quantizeInto = (
  folder: string,
  model: string,
  { options }: Layout,
  { samples, seqLen, unfit }: Options,
): void => {
  const data = options.includes('rtn') ? [] : ['--samples', samples, '--seq-len', seqLen]
  quantize(model, ...options.split(' '), ...data, '--unfit', unfit, '-o', folder)
}

const ourPerplexity = (folder: string, { text, seqLen, windows }: Options): number =>
  JSON.parse(quantize('eval', folder, '--text', text, '--seq-len', seqLen, '--windows', windows, '--json')).perplexity

const loaderPerplexity = (loader: string, folder: string, { python, text, seqLen, windows }: Options): number => {
  const args = [loader, folder, '--text', text, '--seq', seqLen, '--windows', windows]
  return pythonJson(python, new URL('score.py', import.meta.url), ...args).perplexity
}

/** A table row for each loader of a layout, and whether all agree. */
const check = (model: string, layout: Layout, options: Options) => {
  const parent = mkdtempSync(join(tmpdir(), 'quantize-interop-'))
  const folder = join(parent, 'checkpoint')
  const rows: string[][] = []
  let agree = true
  try {
    quantizeInto(folder, model, layout, options)
    const ours = ourPerplexity(folder, options)
    for (const loader of layout.loaders) {
      const theirs = loaderPerplexity(loader, folder, options)
      const difference = theirs / ours - 1
      const close = Math.abs(difference) <= Number(options.tolerance)
      agree &&= close
      const percent = `${(100 * difference).toFixed(4)} %`
      rows.push([
        basename(model),
        layout.options,
        loader,
        ours.toFixed(4),
        theirs.toFixed(4),
        percent,
        close ? 'ok' : 'NO',
      ])
    }
  } catch (error) {
    agree = false
    rows.push([basename(model), layout.options, '', '', '', '', reasonOf(error)])
  } finally {
    rmSync(parent, { recursive: true, force: true })
  }
  for (const row of rows) process.stderr.write(`${row.join(' | ')}\n`)
  return { rows, agree }
}

const main = (models: readonly string[], options: Options): void => {
  const table = new Table({
    head: ['model', 'options', 'loader', 'eval', 'loader says', 'difference', ''],
    style: { head: [], border: [] },
  })
  const results = models.flatMap(model => layouts.map(layout => check(model, layout, options)))
  table.push(...results.flatMap(({ rows }) => rows))
  process.stdout.write(`${table}\n`)
  process.exitCode = results.every(({ agree }) => agree) ? 0 : 1
}

new Command('interop')
  .argument('[models...]', 'model folders', [here('../fixtures/tiny-llama')])
  .requiredOption('--python <path>', 'a Python with gptqmodel and optimum (README.md)')
  .option('--text <file>', 'text to score', here('../fixtures/tiny-llama/held.txt'))
  .option('--samples <n>', 'calibration windows', '32')
  .option('--seq-len <n>', 'tokens of a window, in calibration and scoring', '256')
  .option('--windows <n>', 'windows scored', '8')
  .option('--tolerance <fraction>', 'largest relative difference of two perplexities', '0.001')
  .option('--unfit <keep|error>', 'as in quantize', 'error')
  .action(main)
  .parse()
