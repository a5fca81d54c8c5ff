/** Statistics files, near a sound one: metadata and header as JSON, then values, then some bytes changed. */
import fc from 'fast-check'
import { safetensors } from '../../fixtures/hostile/bytes.ts'
import { openStatistics } from '../../src/calibrate/statistics-file.ts'
import { soundFacts, soundTensors, statisticsBytes } from '../helpers/statistics.ts'
import { byteEdits, jsonNear } from './json-tree.ts'
import { memoryFiles } from './memory-files.ts'
import type { Parser } from './parsers.ts'

const words = [
  ...['statistics', 'model', 'texts', 'counts', 'a.q_proj', 'a.down_proj', 'a', 'tokensUsed', 'seed', 'sha256'],
  ...['quantize_statistics', '__metadata__', 'a.q_proj.mean', 'a.q_proj.gram', 'a.down_proj.histogram', 'F32', 'F64'],
]
const sound = statisticsBytes()
const dataStart = 8 + Number(Buffer.from(sound).readBigUInt64LE())
const header: unknown = JSON.parse(Buffer.from(sound.subarray(8, dataStart)).toString())
const data = sound.subarray(dataStart)

const ofMetadata = jsonNear([soundFacts], words).map(json => statisticsBytes(Buffer.from(json).toString()))
const ofHeader = jsonNear([header], words).map(json => safetensors(json, data))

const odd = fc.constantFrom(
  ...[Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY],
  ...[-1, -0, 0, 1, 12, 36, 0.5, 2 ** 53, 1e38, -1e38, 5e-324],
)
const ofValues = fc
  .array(fc.tuple(fc.constantFrom(...Object.keys(soundTensors)), fc.nat(5000), odd), { maxLength: 2 })
  .map(edits => {
    const tensors = { ...soundTensors }
    for (const [name, at, value] of edits) {
      const { values, ...rest } = tensors[name]
      tensors[name] = { ...rest, values: values.with(at % values.length, value) }
    }
    return statisticsBytes(soundFacts, tensors)
  })

const expectThat = (holds: boolean, what: string): void => {
  if (!holds) throw new Error(`not true: ${what}`)
}

export const statisticsParser: Parser = {
  name: 'statistics',
  file: fc.tuple(fc.oneof(ofMetadata, ofHeader, ofValues), byteEdits).map(([bytes, change]) => change(bytes)),
  parse(bytes) {
    const { files, largestRead, open } = memoryFiles({ 'm/stats.safetensors': bytes })
    try {
      const file = openStatistics('m/stats.safetensors', files)
      try {
        for (const [tap, width] of file.taps) {
          const { count, gram, channels, histogram } = file.read(tap)
          const { mean, low, high } = channels!
          expectThat(count > 0 && gram.length === width ** 2 && mean.length === width, 'there is one of each channel')
          expectThat(gram.every(Number.isFinite) && mean.every(Number.isFinite), 'all values are finite')
          expectThat(
            low.every((value, i) => value <= high[i] && gram[i * width + i] >= 0),
            'ranges are ranges and squares are squares',
          )
          expectThat(histogram!.reduce((a, b) => a + b, 0) === count * width, 'every value is in a bin')
        }
      } finally {
        file.close()
      }
    } finally {
      expectThat(open() === 0, 'every file is closed')
    }
    return largestRead()
  },
  quick: 1000,
}
