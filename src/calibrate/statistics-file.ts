/**
 * Statistics of a model on a text, in a safetensors file (docs/statistics.md): for the input of each stage, under the name of its first linear,
 *   <linear>.gram       F32 [n (n + 1) / 2]  the upper triangle of Σ x xᵀ / count, row by row
 *   <linear>.mean, .abs_mean, .min, .max     F32 [n], of each channel
 *   <linear>.histogram  F64 [4096]           how many values have each 12 leading bits of float32
 * and in the metadata, as JSON, what they are of.
 */

import { createHash } from 'node:crypto'
import { basename, dirname, join } from 'node:path'
import { z } from 'zod'
import { openCheckpoint } from '../checkpoint/open-checkpoint.ts'
import { planFile } from '../checkpoint/shard-plan.ts'
import { createShardWriter, type ShardWriter } from '../checkpoint/write-safetensors.ts'
import type { ChannelStatistics, Checkpoint, Model, Stage, Statistics, TensorInfo, TensorSource } from '../contracts.ts'
import { bytesOf } from '../dtype/bytes.ts'
import { QuantizeError } from '../errors.ts'
import { allFinite } from '../finite.ts'
import type { Files } from '../io/files.ts'
import { parseJson } from '../io/parse-json.ts'
import { printable } from '../io/printable.ts'
import { add } from '../io/size.ts'
import { hashFile } from '../io/whole-file.ts'
import { calibrationSchema } from '../report/schema.ts'
import { histogramBins, isFiniteBin } from './channels.ts'

const metadataKey = 'quantize_statistics'

const factsSchema = z.strictObject({
  statistics: z.literal(1),
  /** SHA-256 of each weight file of the model, by base name. */
  model: z.record(z.string(), z.string().regex(/^[0-9a-f]{64}$/)),
  /** What was read: one text, or those of files that were merged. */
  texts: z.array(calibrationSchema).min(1),
  /** Tokens that each tap saw, by the name of its first linear. */
  counts: z.record(z.string(), z.int().positive()),
})

export type StatisticsFacts = z.infer<typeof factsSchema>

/** Statistics on disk. */
export interface StatisticsFile {
  readonly path: string
  readonly facts: StatisticsFacts
  /** Names of taps, in the order of the file's tensors, with their widths. */
  readonly taps: ReadonlyMap<string, number>
  /** @throws QuantizeError bad-input when there are none of this tap, or their values cannot be true */
  read(tap: string): Statistics
  close(): void
}

/** The name of a stage's tap in such a file. */
export const tapName = ({ linears }: Stage): string => linears[0].name

/** Widths of a model's taps by name, in the order in which they compute. */
export const tapsOf = ({ blocks }: Model): ReadonlyMap<string, number> =>
  new Map(blocks.flatMap(({ stages }) => stages).map(stage => [tapName(stage), stage.width]))

const channelParts = { mean: 'mean', abs_mean: 'absMean', min: 'low', max: 'high' } as const

const triangle = (n: number): number => (n * (n + 1)) / 2

/** [n, n] symmetric → its upper triangle, row by row. */
const packTriangle = (full: Float32Array, n: number): Float32Array => {
  const packed = new Float32Array(triangle(n))
  for (let row = 0, at = 0; row < n; at += n - row, row++) packed.set(full.subarray(row * n + row, (row + 1) * n), at)
  return packed
}

const unpackTriangle = (packed: Float32Array, n: number): Float32Array => {
  const full = new Float32Array(n * n)
  for (let row = 0, at = 0; row < n; at += n - row, row++) {
    full.set(packed.subarray(at, at + n - row), row * n + row)
    for (let column = row + 1; column < n; column++) full[column * n + row] = packed[at + column - row]
  }
  return full
}

const infosOf = (tap: string, n: number): readonly TensorInfo[] => [
  { name: `${tap}.gram`, dtype: 'F32', shape: [triangle(n)], bytes: 4 * triangle(n) },
  ...Object.keys(channelParts).map(part => ({
    name: `${tap}.${part}`,
    dtype: 'F32' as const,
    shape: [n],
    bytes: 4 * n,
  })),
  { name: `${tap}.histogram`, dtype: 'F64', shape: [histogramBins], bytes: 8 * histogramBins },
]

/** Writes statistics tap by tap. */
export interface StatisticsWriter extends Omit<ShardWriter, 'write'> {
  /**
   * @param statistics with channels and histogram
   * @returns SHA-256 (lower-case hex) of the tensors, by name
   */
  write(tap: string, statistics: Statistics): Readonly<Record<string, string>>
}

/** Names of the tensors of a tap. */
export const tapTensors = (tap: string): readonly string[] => infosOf(tap, 1).map(({ name }) => name)

/** @throws QuantizeError exhausted when the disk is full */
export const createStatisticsWriter = (
  path: string,
  facts: StatisticsFacts,
  taps: ReadonlyMap<string, number>,
  files: Files,
): StatisticsWriter => {
  const infos = [...taps].flatMap(([tap, width]) => infosOf(tap, width))
  const metadata = { [metadataKey]: JSON.stringify(factsSchema.parse(facts)) }
  const writer = createShardWriter(dirname(path), [planFile(basename(path), infos, metadata)], files)
  return {
    ...writer,
    write(tap, { gram, channels, histogram }) {
      const values = [
        packTriangle(gram, taps.get(tap)!),
        ...Object.values(channelParts).map(field => channels![field]),
        histogram!,
      ]
      return Object.fromEntries(
        tapTensors(tap).map((name, i) => {
          const bytes = bytesOf(values[i])
          writer.write(name, bytes)
          return [name, createHash('sha256').update(bytes).digest('hex')]
        }),
      )
    },
  }
}

/** The same file is refused the next time: nothing of a run is kept for it. */
const refuse = (path: string, problem: string): never => {
  throw new QuantizeError('bad-input', `${printable(path)}: ${problem}`, { lasting: true })
}

const factsOf = ({ path, metadata }: Checkpoint): StatisticsFacts => {
  const text = Object.hasOwn(metadata, metadataKey)
    ? metadata[metadataKey]
    : refuse(path, 'holds no statistics; `quantize calibrate <model> -o` writes them')
  const facts = factsSchema.safeParse(parseJson(text, path))
  if (facts.success) return facts.data
  const [{ path: key, message }] = facts.error.issues
  return refuse(path, `its metadata is no statistics of version 1: ${printable([...key, message].join(': '))}`)
}

/** Widths of the taps: each has its tensors, which belong together, and the file holds nothing else. */
const checkedTaps = ({ path, tensors }: Checkpoint, { counts, texts }: StatisticsFacts): Map<string, number> => {
  const tokens = texts.reduce((sum, { tokensUsed }) => add(sum, tokensUsed, printable(path)), 0)
  const taps = new Map<string, number>()
  for (const [tap, count] of Object.entries(counts)) {
    if (count > tokens) refuse(path, `the input of ${printable(tap)} saw ${count} tokens, of ${tokens} that were used`)
    const width = tensors.get(`${tap}.mean`)?.shape[0] ?? refuse(path, `lacks ${printable(`${tap}.mean`)}`)
    if (width === 0) refuse(path, `the input of ${printable(tap)} has no channels`)
    for (const { name, dtype, shape } of infosOf(tap, width)) {
      const found = tensors.get(name) ?? refuse(path, `lacks ${printable(name)}`)
      if (found.dtype !== dtype || found.shape.length !== 1 || found.shape[0] !== shape[0])
        refuse(path, `${printable(name)} is ${found.dtype} [${found.shape}], not ${dtype} [${shape}]`)
    }
    taps.set(tap, width)
  }
  if (taps.size === 0) refuse(path, 'has statistics of no input')
  const known = new Set([...taps.keys()].flatMap(tapTensors))
  for (const name of tensors.keys())
    if (!known.has(name)) refuse(path, `holds ${printable(name)}, which is of no input that it counts tokens of`)
  return taps
}

const finiteValues = (source: TensorSource, path: string): Float32Array | Float64Array => {
  const values = source.dtype === 'F64' ? new Float64Array(source.bytes / 8) : new Float32Array(source.bytes / 4)
  source.read(0, source.bytes, bytesOf(values))
  if (!allFinite(values)) refuse(path, `${printable(source.name)} holds a value that is not finite`)
  return values
}

/** What is wrong with the values of a tap, whatever the text was; undefined: nothing. */
const untrue = (gram: Float32Array, { absMean, low, high }: ChannelStatistics): string | undefined => {
  const n = low.length
  for (let i = 0; i < n; i++) {
    if (gram[i * n + i] < 0) return `channel ${i} has a mean square of ${gram[i * n + i]}`
    if (absMean[i] < 0) return `channel ${i} has a mean magnitude of ${absMean[i]}`
    if (low[i] > high[i]) return `channel ${i} has a least value of ${low[i]} and a largest of ${high[i]}`
  }
  return undefined
}

const untrueHistogram = (histogram: Float64Array, values: number): string | undefined => {
  let total = 0
  for (let bin = 0; bin < histogramBins; bin++) {
    const count = histogram[bin]
    if (!Number.isSafeInteger(count) || count < 0) return `bin ${bin} counts ${count} values`
    if (count > 0 && !isFiniteBin(bin)) return `bin ${bin}, of values that are not finite, counts ${count}`
    total += count
  }
  return total === values ? undefined : `its bins count ${total} values, not ${values}`
}

/** @throws QuantizeError bad-input for a file that holds something else, is damaged, or lacks parts */
export const openStatistics = (path: string, files: Files): StatisticsFile => {
  const checkpoint = openCheckpoint(path, files)
  try {
    const facts = factsOf(checkpoint)
    const taps = checkedTaps(checkpoint, facts)
    return {
      path,
      facts,
      taps,
      read(tap) {
        const width = taps.get(tap) ?? refuse(path, `has no input of ${printable(tap)}`)
        const count = facts.counts[tap]
        const [packed, mean, absMean, low, high, histogram] = tapTensors(tap).map(name =>
          finiteValues(checkpoint.tensors.get(name)!, path),
        ) as [Float32Array, Float32Array, Float32Array, Float32Array, Float32Array, Float64Array]
        const gram = unpackTriangle(packed, width)
        const channels = { mean, absMean, low, high }
        const problem = untrue(gram, channels) ?? untrueHistogram(histogram, count * width)
        if (problem) refuse(path, `the input of ${printable(tap)}: ${problem}`)
        return { count, gram, channels, histogram }
      },
      close: checkpoint.close,
    }
  } catch (error) {
    checkpoint.close()
    throw error
  }
}

/** SHA-256 of the weight files, by name: what a model is known by. */
export const hashesOfWeights = ({ folder, files: names }: Checkpoint, files: Files): Readonly<Record<string, string>> =>
  Object.fromEntries(names.map(name => [name, hashFile(join(folder, name), files).sha256]))

/** @throws QuantizeError bad-input when the statistics are of another model, with what differs */
const checkStatistics = (
  { path, facts, taps }: StatisticsFile,
  of: Model,
  model: Readonly<Record<string, string>>,
): void => {
  for (const [name, sha256] of Object.entries(model))
    if (!Object.hasOwn(facts.model, name) || facts.model[name] !== sha256)
      refuse(
        path,
        `is of another model: ${printable(name)} ${Object.hasOwn(facts.model, name) ? 'has another content' : 'is not of it'}; \`quantize calibrate\` makes statistics of this one`,
      )
  for (const [tap, width] of tapsOf(of)) {
    const found = taps.get(tap) ?? refuse(path, `has no input of ${printable(tap)}`)
    if (found !== width) refuse(path, `the input of ${printable(tap)} has ${found} channels; the model has ${width}`)
  }
}

/**
 * Statistics of a model.
 * @param hashes SHA-256 of each of its weight files, by base name
 * @throws QuantizeError bad-input as openStatistics, and when they are of another model, with what differs
 */
export const openStatisticsOf = (
  path: string,
  model: Model,
  hashes: Readonly<Record<string, string>>,
  files: Files,
): StatisticsFile => {
  const file = openStatistics(path, files)
  try {
    checkStatistics(file, model, hashes)
    return file
  } catch (error) {
    file.close()
    throw error
  }
}

/** Σ a·x + b·y element by element, in float64. */
const mixed = (x: Float32Array, y: Float32Array, a: number, b: number): Float32Array =>
  x.map((value, i) => a * value + b * y[i])

/** What two parts of a text show together. */
export const mergedStatistics = (a: Statistics, b: Statistics): Statistics => {
  const count = a.count + b.count
  const [shareA, shareB] = [a.count / (count || 1), b.count / (count || 1)]
  if (!a.channels || !b.channels || !a.histogram || !b.histogram) throw new Error('statistics of a file have all parts')
  const [x, y] = [a.channels, b.channels]
  return {
    count,
    gram: mixed(a.gram, b.gram, shareA, shareB),
    channels: {
      mean: mixed(x.mean, y.mean, shareA, shareB),
      absMean: mixed(x.absMean, y.absMean, shareA, shareB),
      low: x.low.map((value, i) => Math.min(value, y.low[i])),
      high: x.high.map((value, i) => Math.max(value, y.high[i])),
    },
    histogram: a.histogram.map((value, i) => value + b.histogram![i]),
  }
}

/**
 * Writes what several files of one model show together.
 * @throws QuantizeError bad-input when they are of different models, or two of them of the same windows of a text
 */
export const mergeStatistics = (inputs: readonly StatisticsFile[], output: string, files: Files): StatisticsFacts => {
  const [first, ...rest] = inputs
  for (const { path, facts, taps } of rest) {
    const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b)
    if (!same(facts.model, first.facts.model) || !same([...taps], [...first.taps]))
      refuse(path, `is of another model than ${printable(first.path)}`)
  }
  const texts = inputs.flatMap(({ facts }) => facts.texts)
  const drawn = texts.map(({ sha256, seed, seqLen }) => `${sha256} ${seed} ${seqLen}`)
  const twice = drawn.findIndex((key, i) => drawn.indexOf(key) < i)
  if (twice >= 0)
    refuse(
      output,
      `${printable(texts[twice].text)} with --seed ${texts[twice].seed} would count twice; draw the windows of each file with a --seed of its own`,
    )
  const counts = Object.fromEntries(
    [...first.taps.keys()].map(tap => [
      tap,
      inputs.reduce((sum, { facts }) => add(sum, facts.counts[tap], printable(output)), 0),
    ]),
  )
  const facts = { ...first.facts, texts, counts }
  const temporary = `${output}.tmp`
  files.remove(temporary)
  const writer = createStatisticsWriter(temporary, facts, first.taps, files)
  try {
    for (const tap of first.taps.keys())
      writer.write(
        tap,
        rest.reduce((sum, input) => mergedStatistics(sum, input.read(tap)), first.read(tap)),
      )
    writer.finish()
    files.rename(temporary, output)
    files.syncFolder(dirname(output))
  } finally {
    writer.close()
    files.remove(temporary)
  }
  return facts
}
