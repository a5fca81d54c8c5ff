/**
 * Statistics of a model on a text, in a safetensors file (docs/statistics.md): for the input of each stage, under the name of its first linear,
 *   <linear>.gram       F32 [n (n + 1) / 2]  the upper triangle of Σ x xᵀ / count, row by row
 *   <linear>.mean, .abs_mean, .min, .max     F32 [n], of each channel
 *   <linear>.histogram  F64 [4096]           how many values have each 12 leading bits of float32
 * and in the metadata, as JSON, what they are of.
 */
import { dirname, join } from 'node:path'
import { z } from 'zod'
import { openCheckpoint } from '../checkpoint/open-checkpoint.ts'
import { planFile } from '../checkpoint/shard-plan.ts'
import { createShardWriter } from '../checkpoint/write-safetensors.ts'
import type { Checkpoint, Model, Stage, StatisticName, Statistics, TensorInfo, TensorSource } from '../contracts.ts'
import type { ReadWeight } from '../engine/ort/activations.ts'
import type { Engine } from '../engine/ort/session.ts'
import { QuantizeError } from '../errors.ts'
import { allFinite } from '../finite.ts'
import type { Files } from '../io/files.ts'
import { parseJson } from '../io/parse-json.ts'
import { printable } from '../io/printable.ts'
import { hashFile } from '../io/whole-file.ts'
import { calibrationSchema } from '../report/schema.ts'
import { histogramBins } from './channels.ts'
import { calibratedPass, type PassOptions, type Visitor } from './pass.ts'

const metadataKey = 'quantize_statistics'

const factsSchema = z.strictObject({
  statistics: z.literal(1),
  /** SHA-256 of each weight file of the model, by base name. */
  model: z.record(z.string(), z.string().regex(/^[0-9a-f]{64}$/)),
  /** What was read: one text, or those of files that were merged. */
  texts: z.array(calibrationSchema).min(1),
  /** Tokens that each tap saw, by the name of its first linear. */
  counts: z.record(z.string(), z.int().nonnegative()),
})

export type StatisticsFacts = z.infer<typeof factsSchema>

/** Statistics on disk. */
export interface StatisticsFile {
  readonly path: string
  readonly facts: StatisticsFacts
  /** Names of taps, in the order of the file's tensors, with their widths. */
  readonly taps: ReadonlyMap<string, number>
  /** @throws QuantizeError bad-input when there are none of this tap, or of another width */
  read(tap: string, width: number): Statistics
  close(): void
}

/** The name of a stage's tap in such a file. */
export const tapName = ({ linears }: Stage): string => linears[0].name

const channelParts = { mean: 'mean', abs_mean: 'absMean', min: 'low', max: 'high' } as const

const bytesOf = (values: Float32Array | Float64Array): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength)

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

/** Writes statistics tap by tap; the file appears under its name when it is whole. */
export interface StatisticsWriter {
  /** @param statistics with channels and histogram */
  write(tap: string, statistics: Statistics): void
  finish(): void
  /** Lets go of the file; what is not finished is removed. */
  close(): void
}

/** @throws QuantizeError exhausted when the disk is full */
export const createStatisticsWriter = (
  path: string,
  facts: StatisticsFacts,
  taps: ReadonlyMap<string, number>,
  files: Files,
): StatisticsWriter => {
  const folder = `${path}.partial`
  const name = 'statistics.safetensors'
  files.remove(folder)
  files.makeFolder(folder)
  const infos = [...taps].flatMap(([tap, width]) => infosOf(tap, width))
  const writer = createShardWriter(
    folder,
    [planFile(name, infos, { [metadataKey]: JSON.stringify(factsSchema.parse(facts)) })],
    files,
  )
  return {
    write(tap, { gram, channels, histogram }) {
      writer.write(`${tap}.gram`, bytesOf(packTriangle(gram, taps.get(tap)!)))
      for (const [part, field] of Object.entries(channelParts))
        writer.write(`${tap}.${part}`, bytesOf(channels![field]))
      writer.write(`${tap}.histogram`, bytesOf(histogram!))
    },
    finish() {
      writer.finish()
      writer.close()
      files.rename(`${folder}/${name}`, path)
      files.syncFolder(dirname(path))
    },
    close() {
      writer.close()
      files.remove(folder)
    },
  }
}

const refuse = (path: string, problem: string): never => {
  throw new QuantizeError('bad-input', `${printable(path)}: ${problem}`)
}

const factsOf = ({ path, metadata }: Checkpoint): StatisticsFacts => {
  const text = metadata[metadataKey]
  if (text === undefined) return refuse(path, 'holds no statistics; `quantize calibrate <model> -o` writes them')
  const facts = factsSchema.safeParse(parseJson(text, path))
  return facts.success
    ? facts.data
    : refuse(path, `its metadata is no statistics of version 1: ${printable(facts.error.issues[0].message)}`)
}

/** Width of a tap, from its mean. */
const widthsOf = ({ tensors }: Checkpoint, { counts }: StatisticsFacts): Map<string, number> =>
  new Map(Object.keys(counts).map(tap => [tap, tensors.get(`${tap}.mean`)?.shape[0] ?? 0]))

/** @throws QuantizeError bad-input for a file that holds something else, is damaged, or lacks parts */
export const openStatistics = (path: string, files: Files): StatisticsFile => {
  const checkpoint = openCheckpoint(path, files)
  try {
    const facts = factsOf(checkpoint)
    const part = (tap: string, { name, dtype, shape, bytes }: TensorInfo): TensorSource => {
      const found = checkpoint.tensors.get(name)
      if (!found) return refuse(path, `lacks ${printable(name)}, of the input of ${printable(tap)}`)
      if (found.dtype !== dtype || found.bytes !== bytes)
        return refuse(path, `${printable(name)} is ${found.dtype} [${found.shape}], not ${dtype} [${shape}]`)
      return found
    }
    /** Reading is checked: a length that does not fit, or a value that is not finite, is refused. */
    const values = (tap: string, info: TensorInfo): Float32Array | Float64Array => {
      const bytes = part(tap, info).read().slice()
      const found = info.dtype === 'F64' ? new Float64Array(bytes.buffer) : new Float32Array(bytes.buffer)
      if (!allFinite(found)) refuse(path, `${printable(info.name)} holds a value that is not finite`)
      return found
    }
    return {
      path,
      facts,
      taps: widthsOf(checkpoint, facts),
      read(tap, width) {
        const count = Object.hasOwn(facts.counts, tap)
          ? facts.counts[tap]
          : refuse(path, `has no input of ${printable(tap)}`)
        const [gram, mean, absMean, low, high, histogram] = infosOf(tap, width).map(info => values(tap, info))
        return {
          count,
          gram: unpackTriangle(gram as Float32Array, width),
          channels: {
            mean: mean as Float32Array,
            absMean: absMean as Float32Array,
            low: low as Float32Array,
            high: high as Float32Array,
          },
          histogram: histogram as Float64Array,
        }
      },
      close: checkpoint.close,
    }
  } catch (error) {
    checkpoint.close()
    throw error
  }
}

/** SHA-256 of the weight files, by name: what a model is known by. */
export const weightHashes = ({ folder, files: names }: Checkpoint, files: Files): Readonly<Record<string, string>> =>
  Object.fromEntries(names.map(name => [name, hashFile(join(folder, name), files).sha256]))

/**
 * @param model SHA-256 of each weight file of the model that is to be quantized, by base name
 * @throws QuantizeError bad-input when the statistics are of another model, with what differs
 */
export const checkStatistics = (
  { path, facts, taps }: StatisticsFile,
  { blocks }: Model,
  model: Readonly<Record<string, string>>,
): void => {
  for (const [name, sha256] of Object.entries(model))
    if (!Object.hasOwn(facts.model, name) || facts.model[name] !== sha256)
      refuse(
        path,
        `is of another model: ${printable(name)} ${Object.hasOwn(facts.model, name) ? 'has another content' : 'is not of it'}; \`quantize calibrate\` makes statistics of this one`,
      )
  for (const stage of blocks.flatMap(({ stages }) => stages)) {
    const width = taps.get(tapName(stage))
    if (width !== stage.width)
      refuse(
        path,
        width === undefined
          ? `has no input of ${printable(tapName(stage))}`
          : `the input of ${printable(tapName(stage))} has ${width} channels; the model has ${stage.width}`,
      )
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
    [...first.taps.keys()].map(tap => [tap, inputs.reduce((sum, { facts }) => sum + facts.counts[tap], 0)]),
  )
  const facts = { ...first.facts, texts, counts }
  const writer = createStatisticsWriter(output, facts, first.taps, files)
  try {
    for (const [tap, width] of first.taps)
      writer.write(tap, inputs.map(input => input.read(tap, width)).reduce(mergedStatistics))
    writer.finish()
  } finally {
    writer.close()
  }
  return facts
}

/**
 * One pass over the unquantized model, whose statistics go to disk stage by stage.
 * @returns how many taps
 * @throws QuantizeError as calibratedPass; exhausted when the disk is full
 */
export const collectStatistics = async (
  engine: Engine,
  model: Model,
  windows: readonly Int32Array[],
  read: ReadWeight,
  options: PassOptions,
  output: string,
  facts: Pick<StatisticsFacts, 'model' | 'texts'>,
  files: Files,
): Promise<number> => {
  const stages = model.blocks.flatMap(block => block.stages)
  const taps = new Map(stages.map(stage => [tapName(stage), stage.width]))
  const count = windows.reduce((sum, { length }) => sum + length, 0)
  const counts = Object.fromEntries([...taps.keys()].map(tap => [tap, count]))
  const writer = createStatisticsWriter(output, { statistics: 1, ...facts, counts }, taps, files)
  try {
    const visitor: Visitor = {
      known: () => undefined,
      async visit({ stage, statistics }) {
        writer.write(tapName(stage), statistics)
        return new Map()
      },
    }
    await calibratedPass(engine, model, windows, read, visitor, {
      ...options,
      collect: new Set<StatisticName>(['channels', 'histogram']),
    })
    writer.finish()
  } finally {
    writer.close()
  }
  return taps.size
}
