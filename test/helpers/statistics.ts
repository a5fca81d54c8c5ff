/** Statistics files as bytes, sound or with any lie in them. */
import { safetensors } from '../../fixtures/hostile/bytes.ts'
import { histogramBins } from '../../src/calibrate/channels.ts'
import type { Statistics } from '../../src/contracts.ts'
import { uniform } from './linears.ts'

export interface RawTensor {
  readonly dtype: string
  readonly shape: readonly number[]
  readonly values: Float32Array | Float64Array
}

export type RawTensors = Readonly<Record<string, RawTensor>>

/** What tokens [count, width] show, by plain sums in float64. */
export const plainStatistics = (tokens: Float32Array, width: number): Required<Omit<Statistics, 'drift'>> => {
  const count = tokens.length / width
  const channel = (i: number): number[] => Array.from({ length: count }, (_, token) => tokens[token * width + i])
  const columns = Array.from({ length: width }, (_, i) => channel(i))
  const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)
  const gram = Float32Array.from({ length: width * width }, (_, at) => {
    const [a, b] = [columns[Math.floor(at / width)], columns[at % width]]
    return sum(a.map((value, token) => value * b[token])) / count
  })
  const histogram = new Float64Array(histogramBins)
  for (const bits of new Uint32Array(tokens.slice().buffer)) histogram[bits >>> 20]++
  return {
    count,
    gram,
    channels: {
      mean: Float32Array.from(columns, values => sum(values) / count),
      absMean: Float32Array.from(columns, values => sum(values.map(Math.abs)) / count),
      low: Float32Array.from(columns, values => Math.min(...values)),
      high: Float32Array.from(columns, values => Math.max(...values)),
    },
    histogram,
  }
}

/** Random tokens [count, width]. */
export const randomTokens = (count: number, width: number, seed: number): Float32Array =>
  Float32Array.from({ length: count * width }, uniform(seed))

/** Rows of the upper triangle, one after the other. */
export const triangleOf = (gram: Float32Array, n: number): Float32Array =>
  Float32Array.from(Array.from({ length: n }, (_, row) => [...gram.subarray(row * n + row, (row + 1) * n)]).flat())

/** The tensors of a tap. */
export const tensorsOf = (tap: string, { gram, channels, histogram }: Statistics): RawTensors => {
  const n = channels!.mean.length
  const f32 = (values: Float32Array): RawTensor => ({ dtype: 'F32', shape: [values.length], values })
  return {
    [`${tap}.gram`]: f32(triangleOf(gram, n)),
    [`${tap}.mean`]: f32(channels!.mean),
    [`${tap}.abs_mean`]: f32(channels!.absMean),
    [`${tap}.min`]: f32(channels!.low),
    [`${tap}.max`]: f32(channels!.high),
    [`${tap}.histogram`]: { dtype: 'F64', shape: [histogram!.length], values: histogram! },
  }
}

export const sha256 = 'c'.repeat(64)

export const textFacts = (tokens: number, seed = 0) => ({
  text: 'a.txt',
  sha256: 'a'.repeat(64),
  documents: 1,
  samplesRequested: 1,
  samplesUsed: 1,
  tokensUsed: tokens,
  tokensDropped: 0,
  seqLen: tokens,
  seed,
})

export const tokensOfSound = 12

/** Metadata of a sound file of two taps. */
export const soundFacts = {
  statistics: 1 as const,
  model: { 'model.safetensors': sha256 },
  texts: [textFacts(tokensOfSound)],
  counts: { 'a.q_proj': tokensOfSound, 'a.down_proj': tokensOfSound } as Record<string, number>,
}

export const soundStatistics: Readonly<Record<string, Statistics>> = {
  'a.q_proj': plainStatistics(randomTokens(tokensOfSound, 3, 1), 3),
  'a.down_proj': plainStatistics(randomTokens(tokensOfSound, 2, 2), 2),
}

/** Theirs. */
export const soundTensors: RawTensors = Object.assign(
  {},
  ...Object.entries(soundStatistics).map(([tap, statistics]) => tensorsOf(tap, statistics)),
)

/** @param facts JSON as text, or its value; null: no metadata */
export const statisticsBytes = (
  facts: string | object | null = soundFacts,
  tensors: RawTensors = soundTensors,
): Uint8Array => {
  let end = 0
  const header: [string, object][] = []
  const data: Uint8Array[] = []
  for (const [name, { dtype, shape, values }] of Object.entries(tensors)) {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
    header.push([name, { dtype, shape, data_offsets: [end, end + bytes.byteLength] }])
    data.push(bytes)
    end += bytes.byteLength
  }
  const text = typeof facts === 'string' ? facts : JSON.stringify(facts)
  const metadata = facts === null ? {} : { __metadata__: { quantize_statistics: text } }
  // a key __proto__ is one like any other
  const json = [...Object.entries(metadata), ...header]
    .map(([name, entry]) => `${JSON.stringify(name)}:${JSON.stringify(entry)}`)
    .join(',')
  return safetensors(`{${json}}`, Buffer.concat(data))
}
