/**
 * Ours beside llm-compressor, one after the other in one sitting: whole command, seconds and memory, then what the checkpoints are worth.
 * `npm run bench -- MODEL --python ENV/bin/python --calib FILE --text FILE` (README.md). Without --python: ours alone.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import Table from 'cli-table3'
import { Command } from 'commander'
import { pythonJson, quantize } from '../interop/programs.ts'

const peerScript = new URL('peer_llmcompressor.py', import.meta.url)
const scoreScript = new URL('../interop/score.py', import.meta.url)

interface Options {
  readonly python?: string
  readonly calib: string
  readonly text: string
  readonly samples: string
  readonly seqLen: string
  readonly seeds: string
  readonly windows: string
  readonly asym?: true
  readonly clip: string
  readonly json?: true
}

/** What is measured: heading and digits of its column. */
const figures = {
  /** Wall time of the whole command, start and loading included. */
  seconds: { heading: 'command s', digits: 1 },
  /** Wall time of the quantization as the tool itself tells it. */
  quantizing: { heading: 'quantizing s', digits: 1 },
  /** Largest resident memory of the process, MB (10^6 bytes). */
  peakMB: { heading: 'peak MB', digits: 0 },
  perplexity: { heading: 'perplexity', digits: 3 },
  meanKl: { heading: 'mean KL', digits: 4 },
  topAgreement: { heading: 'top-1 agreement', digits: 4 },
} as const

type Figure = keyof typeof figures
type Result = { readonly tool: string; readonly seed: string } & Readonly<Record<Figure, number>>

const figureNames = Object.keys(figures) as Figure[]

const timed = <T>(work: () => T): { readonly seconds: number; readonly value: T } => {
  const began = performance.now()
  const value = work()
  return { seconds: (performance.now() - began) / 1000, value }
}

const runOurs = (model: string, output: string, seed: string, options: Options): Result => {
  const { calib, text, samples, seqLen, windows, asym, clip } = options
  const settings = ['--bits', '4', '--group', '64', asym ? '--asym' : '--sym', '--clip', clip]
  const data = ['--samples', samples, '--seq-len', seqLen, '--seed', seed, '--calib', calib]
  const { seconds } = timed(() => quantize(model, ...settings, ...data, '-o', output))
  const { totals } = JSON.parse(readFileSync(join(output, 'quantize-report.json'), 'utf8'))
  const scored = ['--text', text, '--seq-len', seqLen, '--windows', windows, '--reference', model, '--json']
  const { perplexity, reference } = JSON.parse(quantize('eval', output, ...scored))
  const { meanKl, topAgreement } = reference
  const peakMB = totals.peakMemoryBytes / 1e6
  return { tool: 'quantize', seed, seconds, quantizing: totals.seconds, peakMB, perplexity, meanKl, topAgreement }
}

const runPeer = (python: string, model: string, output: string, seed: string, options: Options): Result => {
  const { calib, text, samples, seqLen, windows, asym } = options
  const threads = String(availableParallelism())
  const settings = [model, calib, output, asym ? 'asym' : 'sym', samples, seqLen, seed, threads]
  const { seconds, value } = timed(() => pythonJson(python, peerScript, ...settings))
  const scored = ['--text', text, '--seq', seqLen, '--windows', windows, '--reference', model]
  const scorer = ['hf', output, '--tokenizer', model, ...scored]
  const { perplexity, meanKl, topAgreement } = pythonJson(python, scoreScript, ...scorer)
  const peakMB = (value.peakMB * 2 ** 20) / 1e6
  return { tool: 'llm-compressor', seed, seconds, quantizing: value.seconds, peakMB, perplexity, meanKl, topAgreement }
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length

/** The mean over seeds of every figure. */
const average = (tool: string, results: readonly Result[]): Result => {
  const means = figureNames.map(figure => [figure, mean(results.map(result => result[figure]))])
  return { tool, seed: 'mean', ...(Object.fromEntries(means) as Record<Figure, number>) }
}

const row = (result: Result): string[] => [
  result.tool,
  result.seed,
  ...figureNames.map(figure => result[figure].toFixed(figures[figure].digits)),
]

const ratios = (ours: Result, peer: Result): string[] => [
  'ratio',
  '',
  ...figureNames.map(figure => (ours[figure] / peer[figure]).toFixed(3)),
]

const main = (model: string, options: Options): void => {
  const { python, seeds, json } = options
  const folder = mkdtempSync(join(tmpdir(), 'quantize-bench-'))
  const ours: Result[] = []
  const peer: Result[] = []
  try {
    for (const seed of seeds.split(',')) {
      ours.push(runOurs(model, join(folder, `ours-${seed}`), seed, options))
      process.stderr.write(`${row(ours.at(-1)!).join(' | ')}\n`)
      if (!python) continue
      peer.push(runPeer(python, model, join(folder, `peer-${seed}`), seed, options))
      process.stderr.write(`${row(peer.at(-1)!).join(' | ')}\n`)
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
  const means = [average('quantize', ours), ...(python ? [average('llm-compressor', peer)] : [])]
  if (json) {
    process.stdout.write(`${JSON.stringify({ runs: [...ours, ...peer], means }, null, 2)}\n`)
    return
  }
  const head = ['', 'seed', ...figureNames.map(figure => figures[figure].heading)]
  const table = new Table({ head, style: { head: [], border: [] } })
  table.push(...[...ours, ...peer, ...means].map(row))
  if (python) table.push(ratios(means[0], means[1]))
  process.stdout.write(`${table}\n`)
}

new Command('bench')
  .argument('<model>', 'model folder')
  .option('--python <path>', 'a Python with llmcompressor (README.md); without it, ours alone')
  .requiredOption('--calib <file>', 'calibration text')
  .requiredOption('--text <file>', 'text to score')
  .option('--samples <n>', 'calibration windows', '64')
  .option('--seq-len <n>', 'tokens of a window, in calibration and scoring', '512')
  .option('--seeds <list>', 'seeds, with commas between them', '0')
  .option('--windows <n>', 'windows scored', '40')
  .option('--asym', 'asymmetric codes')
  .option('--clip <minmax|mse>', 'ours only', 'minmax')
  .option('--json', 'one JSON document')
  .action(main)
  .parse()
