/** One checkpoint, ours or another maker's: read by us and by its own runtimes. */
import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { openCheckpoint } from '../src/checkpoint/open-checkpoint.ts'
import { nodeFiles } from '../src/io/files.ts'
import { encodeDocuments } from '../src/text/tokenizer.ts'
import { type Case, peerOf, type Reader } from './cases.ts'
import { formulaBits, type Scheme, typeBits } from './formulas.ts'
import { CommandError, type LoaderAnswer, type LoaderProcess, quantize } from './programs.ts'
import { dtypeOf, readHeaders, type StoredTensor, scaleWidth, sizeOnDisk } from './stored.ts'
import { type Row, toleranceOf, weightTolerances } from './table.ts'

export interface Model {
  readonly name: string
  readonly folder: string
  readonly text: string
}

export interface Settings {
  readonly samples: string
  readonly seqLen: string
  readonly windows: string
  /** What does not fit a linear is an error, too. */
  readonly unfit: 'keep' | 'error'
  /** Working folder; emptied after each checkpoint. */
  readonly scratch: string
  readonly processes: Readonly<Record<Reader['environment'], LoaderProcess | undefined>>
}

type Facts = Pick<Row, 'model' | 'format' | 'bits' | 'scheme'> & Partial<Row>

/** Exit code of what a format cannot hold. */
const cannotHold = 4

/** Quantizes a model, and reads the result. */
export const checkCase = async (model: Model, wanted: Case, given: Settings): Promise<Row[]> => {
  const settings = { ...given, windows: String(Math.max(Number(given.windows), wanted.windows ?? 0)) }
  const folder = join(settings.scratch, 'checkpoint')
  const facts = factsOf(model, wanted)
  try {
    quantize(model.folder, '-o', folder, ...optionsOf(wanted, settings))
    const sizes = compareSizes(model, folder, wanted)
    const problem = sizes.problem ?? misnamed(folder, wanted)
    const ours = score(model, folder, settings)
    const seen = { ...facts, ...sizes.columns, ours }
    const values = decoded(folder, settings)
    return await readByAll(model, folder, wanted.readers, seen, settings, problem ?? values.problem, values.folder)
  } catch (error) {
    return [failed(facts, error)]
  } finally {
    empty(settings.scratch)
  }
}

/** Reads a checkpoint that another maker wrote. */
export const checkPeer = async (model: Model, parent: string, name: string, settings: Settings): Promise<Row[]> => {
  const folder = join(parent, name)
  const peer = peerOf(name)!
  const facts = { model: model.name, format: name, bits: '', scheme: '' }
  if (peer.refused) return [refused(model, folder, facts, settings)]
  try {
    const { quantization } = inspect(folder)
    if (quantization === null) return [{ ...facts, reader: '', outcome: 'NO', verdict: 'inspect names no format' }]
    const [scheme] = quantization.schemes
    const seen = {
      ...facts,
      ours: score(model, folder, settings),
      bits: String(scheme.bits),
      scheme: `${quantization.format} ${scheme.grid}/${scheme.group}`,
      bitsPerWeight: quantization.bitsPerWeight,
    }
    const problem =
      quantization.format.split(':')[0] === peer.format ? undefined : `inspect names it ${quantization.format}`
    const values = decoded(folder, settings)
    return await readByAll(model, folder, peer.readers, seen, settings, problem ?? values.problem, values.folder)
  } catch (error) {
    return [failed(facts, error)]
  } finally {
    empty(settings.scratch)
  }
}

/** What `eval` says it lacks. */
const refused = (model: Model, folder: string, facts: Facts, settings: Settings): Row => {
  try {
    const ours = score(model, folder, settings)
    return { ...facts, ours, reader: '', outcome: 'NO', verdict: 'was to be refused' }
  } catch (error) {
    const row = failed(facts, error)
    return row.outcome === 'does not fit' ? { ...row, outcome: 'ok', verdict: `refused: ${row.verdict}` } : row
  }
}

const factsOf = (model: Model, { format, bits, grid, group, symmetric, method, more }: Case): Facts => {
  const sign = grid === 'int' ? (symmetric ? ' sym' : ' asym') : ''
  const scheme = [`${grid}${sign}/${group}`, method === 'rtn' ? '' : method, ...more].filter(Boolean).join(' ')
  return { model: model.name, format, bits: String(bits), scheme }
}

const failed = (facts: Facts, error: unknown): Row => {
  if (!(error instanceof CommandError)) throw error
  const outcome = error.exitCode === cannotHold ? 'does not fit' : 'NO'
  return { ...facts, reader: '', outcome, verdict: error.message }
}

const optionsOf = (wanted: Case, { samples, seqLen, unfit }: Settings): string[] => {
  const { format, bits, grid, group, symmetric, method, more } = wanted
  const reads = method !== 'rtn' || more.includes('--activation-scales')
  const data = reads ? ['--samples', samples, '--seq-len', seqLen] : []
  const width = grid === 'int' ? ['--bits', String(bits), symmetric ? '--sym' : '--asym'] : []
  const groups = group === 'implied' ? [] : ['--group', String(group)]
  const settled = format.startsWith('gguf') // types settle the rest
  const scheme = ['--method', method, '--format', format, ...(settled ? [] : ['--grid', grid, ...width, ...groups])]
  return [...scheme, ...data, '--unfit', unfit, '--overwrite', ...more]
}

/** What `inspect` says of a checkpoint's quantization. */
const inspect = (folder: string) => JSON.parse(quantize('inspect', folder, '--json'))

/** Decoded weights name no format. */
const misnamed = (folder: string, { format }: Scheme): string | undefined => {
  const { quantization } = inspect(folder)
  const expected = format.startsWith('safetensors') ? undefined : format.split(':')[0]
  return quantization?.format.split(':')[0] === expected ? undefined : `inspect names it ${quantization?.format}`
}

/** Linears of the source's blocks, and its embedding, with their shapes. */
const weightsOf = (model: Model): [string, StoredTensor][] =>
  [...readHeaders(model.folder)]
    .filter(([name, { shape }]) => name.endsWith('.weight') && shape.length === 2)
    .map(([name, tensor]) => [name.slice(0, -'.weight'.length), tensor])

/** Bits a weight of what is quantized: by the bytes of the file and by the formula; and the tensors of fixed size, which no formula counts. */
const compareSizes = (model: Model, folder: string, scheme: Scheme) => {
  const tensors = readHeaders(folder)
  const total = { bits: 0, formula: 0, fixedBits: 0, weights: 0, linears: 0 }
  for (const [module, { shape }] of weightsOf(model)) {
    const size = sizeOnDisk(module, tensors)
    if (!size) continue
    const [out, inputs] = shape
    total.bits += size.bits
    total.fixedBits += size.fixedBits
    const linear = { out, in: inputs }
    total.formula += scheme.format.startsWith('gguf')
      ? typeBits(dtypeOf(module, tensors), linear)
      : formulaBits(scheme, linear, scaleWidth(module, tensors))
    total.weights += out * inputs
    total.linears++
  }
  if (total.linears === 0) return { columns: {}, problem: undefined }
  return {
    columns: {
      bitsPerWeight: total.bits / total.weights,
      formula: total.formula / total.weights,
      fixedBytes: total.fixedBits / 8 / total.linears,
    },
    problem: total.bits === total.formula ? undefined : 'the file is not as long as the formula says',
  }
}

/** The perplexity that we read. */
const score = ({ text }: Model, folder: string, { seqLen, windows }: Settings): number =>
  JSON.parse(quantize('eval', folder, '--text', text, '--seq-len', seqLen, '--windows', windows, '--json')).perplexity

/** A row for each reader. */
const readByAll = async (
  model: Model,
  folder: string,
  readers: readonly Reader[],
  facts: Facts,
  settings: Settings,
  problem: string | undefined,
  values: string | undefined,
): Promise<Row[]> => {
  const { seqLen, windows } = settings
  const rows: Row[] = []
  for (const { environment, loader } of readers) {
    const answer = await settings.processes[environment]?.ask({
      ...{ loader, folder, text: model.text, seq: Number(seqLen), windows: Number(windows), values },
    })
    const cut = answer?.tokens && (await differingLines(model, folder, answer.tokens))
    if (answer) rows.push(judged(facts, `${loader} (${environment})`, answer, problem ?? cut))
  }
  return rows
}

/** Whether our tokenizer of the checkpoint gives a loader's ids for the first lines of the text. */
const differingLines = async (
  { text }: Model,
  folder: string,
  theirs: readonly (readonly number[])[],
): Promise<string | undefined> => {
  const lines = readFileSync(text, 'utf8')
    .split(/\r?\n/)
    .filter(line => line.trim() !== '')
    .slice(0, theirs.length)
  const checkpoint = openCheckpoint(folder, nodeFiles)
  try {
    const ours = await encodeDocuments(checkpoint, lines, 2 ** 31, nodeFiles)
    const differ = theirs.filter((ids, i) => ids.join() !== ours[i]?.join()).length
    return differ === 0 ? undefined : `${differ} of ${lines.length} lines have other tokens`
  } finally {
    checkpoint.close()
  }
}

/** The same checkpoint as float32 weights: what we say each code means. Of weights without codes, nothing. */
const decoded = (folder: string, { scratch }: Settings): { readonly folder?: string; readonly problem?: string } => {
  const values = join(scratch, 'values')
  const { quantization } = inspect(folder)
  if (quantization === null) return {}
  try {
    quantize('convert', folder, '--format', 'safetensors:f32', '-o', values)
    return { folder: values }
  } catch (error) {
    return { problem: (error as Error).message }
  }
}

const judged = (facts: Facts, reader: string, answer: LoaderAnswer, problem: string | undefined): Row => {
  const { error, perplexity, precision = 'float32', activations, note, difference } = answer
  const row = { ...facts, reader, theirs: perplexity, weights: difference }
  const rounded = [precision === 'float32' ? '' : precision, activations ? 'activations quantized' : '']
  const says = [...rounded, note].filter(Boolean).join(', ')
  const no = (why: string): Row => ({ ...row, outcome: 'NO', verdict: [why, says].filter(Boolean).join('; ') })
  if (error !== undefined) return no(error)
  if (problem !== undefined) return no(problem)
  if (perplexity === undefined && difference === undefined) return no('nothing compared')
  if (perplexity !== undefined && !(Math.abs(perplexity / facts.ours! - 1) <= toleranceOf(answer)))
    return no('perplexities differ')
  if (difference !== undefined && !(difference <= weightTolerances[precision])) return no('weights differ')
  return { ...row, outcome: 'ok', verdict: says }
}

const empty = (folder: string): void => {
  for (const name of readdirSync(folder)) rmSync(join(folder, name), { recursive: true, force: true })
}
