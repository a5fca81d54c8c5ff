import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  createStatisticsWriter,
  mergeStatistics,
  openStatistics,
  type StatisticsFacts,
} from '../../src/calibrate/statistics-file.ts'
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.ts'
import type { Statistics } from '../../src/contracts.ts'
import { nodeFiles } from '../../src/io/files.ts'
import { openDescriptors, refusal } from '../checkpoint/support.ts'
import { memoryFiles } from '../fuzz/memory-files.ts'
import {
  plainStatistics,
  type RawTensor,
  type RawTensors,
  randomTokens,
  soundFacts,
  soundStatistics,
  soundTensors,
  statisticsBytes,
  textFacts,
  tokensOfSound,
  triangleOf,
} from '../helpers/statistics.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()

const write = (
  name: string,
  facts: StatisticsFacts,
  taps: Readonly<Record<string, Statistics>> = soundStatistics,
): string => {
  const path = join(folder, `${name}.safetensors`)
  const widths = Object.entries(taps).map(([tap, { channels }]) => [tap, channels!.mean.length] as const)
  const writer = createStatisticsWriter(path, facts, new Map(widths), nodeFiles)
  for (const [tap, statistics] of Object.entries(taps)) writer.write(tap, statistics)
  writer.finish()
  writer.close()
  return path
}

const float32 = (bytes: Uint8Array): Float32Array => new Float32Array(bytes.slice().buffer)

describe('a statistics file', () => {
  it('gives back what was written, to the bit', () => {
    const file = openStatistics(write('whole', soundFacts), nodeFiles)
    expect(file.facts).toEqual(soundFacts)
    expect([...file.taps]).toEqual([
      ['a.q_proj', 3],
      ['a.down_proj', 2],
    ])
    for (const [tap, statistics] of Object.entries(soundStatistics)) expect(file.read(tap)).toEqual(statistics)
    file.close()
  })

  it('holds of a Gram matrix the upper triangle, row by row', () => {
    const n = 9
    const statistics = plainStatistics(randomTokens(tokensOfSound, n, 5), n)
    const facts = { ...soundFacts, counts: { x: tokensOfSound } }
    const path = write('triangle', facts, { x: statistics })
    const { tensors, close } = openCheckpoint(path, nodeFiles)
    const stored = tensors.get('x.gram')!
    expect(stored.shape).toEqual([(n * (n + 1)) / 2])
    expect(float32(stored.read())).toEqual(triangleOf(statistics.gram, n))
    close()
    const file = openStatistics(path, nodeFiles)
    expect(file.read('x').gram).toEqual(statistics.gram)
    file.close()
  })

  it('has no input of another name', () => {
    const file = openStatistics(write('names', soundFacts), nodeFiles)
    for (const name of ['b', '__proto__', 'toString'])
      expect(refusal(() => file.read(name))).toContain(`has no input of ${name}`)
    file.close()
  })
})

describe('merged statistics', () => {
  const merged = (...names: readonly string[]) => {
    const inputs = names.map(path => openStatistics(path, nodeFiles))
    const output = join(folder, 'merged.safetensors')
    try {
      mergeStatistics(inputs, output, nodeFiles)
      return openStatistics(output, nodeFiles)
    } finally {
      for (const input of inputs) input.close()
    }
  }
  const tokens = [randomTokens(30, 4, 1), randomTokens(10, 4, 2), randomTokens(7, 4, 3)]
  const partOf = (i: number, facts: object = {}): string =>
    write(
      `part ${i} ${Object.keys(facts)}`,
      {
        ...soundFacts,
        texts: [textFacts(tokens[i].length / 4, i)],
        counts: { x: tokens[i].length / 4 },
        ...facts,
      },
      { x: plainStatistics(tokens[i], 4) },
    )

  it('are those of all tokens, but for rounding to float32', () => {
    const file = merged(partOf(0), partOf(1), partOf(2))
    const found = file.read('x')
    const wanted = plainStatistics(Float32Array.from(tokens.flatMap(part => [...part])), 4)
    expect(found.count).toBe(47)
    expect(found.histogram).toEqual(wanted.histogram)
    expect(found.channels!.low).toEqual(wanted.channels.low)
    expect(found.channels!.high).toEqual(wanted.channels.high)
    for (const [a, b] of [
      [found.gram, wanted.gram],
      [found.channels!.mean, wanted.channels.mean],
      [found.channels!.absMean, wanted.channels.absMean],
    ])
      for (const [i, value] of b.entries()) expect(Math.abs(a[i] - value)).toBeLessThan(2 ** -23)
    expect(file.facts.texts.map(({ seed }) => seed)).toEqual([0, 1, 2])
    file.close()
  })

  it('do not count the same windows twice', () => {
    expect(refusal(() => merged(partOf(0), partOf(0)))).toMatch(/a\.txt with --seed 0 would count twice; draw/)
    const both = join(folder, 'both.safetensors')
    const file = merged(partOf(0), partOf(1))
    fs.copyFileSync(file.path, both)
    file.close()
    expect(refusal(() => merged(both, partOf(1)))).toMatch(/a\.txt with --seed 1 would count twice/)
  })

  it('are of one model', () => {
    const other = partOf(1, { model: { 'model.safetensors': 'd'.repeat(64) } })
    expect(refusal(() => merged(partOf(0), other))).toContain(`is of another model than ${partOf(0)}`)
    const taps = write('taps', { ...soundFacts, texts: [textFacts(tokensOfSound, 9)] })
    expect(refusal(() => merged(partOf(0), taps))).toContain('is of another model than')
  })

  it('leave nothing behind when a part is damaged, and no other file is touched', () => {
    const damaged = join(folder, 'damaged.safetensors')
    const { 'a.q_proj.histogram': histogram, ...rest } = soundTensors
    const bins = histogram.values.slice()
    bins[0] = 1e9
    const facts = { ...soundFacts, texts: [textFacts(tokensOfSound, 3)] }
    fs.writeFileSync(damaged, statisticsBytes(facts, { ...rest, 'a.q_proj.histogram': { ...histogram, values: bins } }))
    const output = join(folder, 'merged.safetensors')
    fs.rmSync(output, { force: true })
    fs.mkdirSync(`${output}.partial`)
    expect(refusal(() => merged(write('sound', soundFacts), damaged))).toContain('its bins count')
    expect(fs.existsSync(output)).toBe(false)
    expect(fs.existsSync(`${output}.tmp`)).toBe(false)
    expect(fs.existsSync(`${output}.partial`)).toBe(true)
    expect(openDescriptors()).toEqual([])
  })

  it('have no more tokens than can be counted', () => {
    const most = Number.MAX_SAFE_INTEGER
    const many = (seed: number): string => {
      const path = join(folder, `many ${seed}.safetensors`)
      const counts = { 'a.q_proj': most, 'a.down_proj': most }
      fs.writeFileSync(path, statisticsBytes({ ...soundFacts, texts: [textFacts(most, seed)], counts }))
      return path
    }
    expect(refusal(() => merged(many(0), many(1)))).toMatch(/is beyond 2\^53 - 1/)
  })
})

const path = 'm/stats.safetensors'

/** Opens the file and reads all of it. */
const readAll = (bytes: Uint8Array): void => {
  const { files, open } = memoryFiles({ [path]: bytes })
  try {
    const file = openStatistics(path, files)
    try {
      for (const tap of file.taps.keys()) file.read(tap)
    } finally {
      file.close()
    }
  } finally {
    expect(open()).toBe(0)
  }
}

const facts = (change: object): Uint8Array => statisticsBytes({ ...soundFacts, ...change })
const counts = (change: object): Uint8Array => facts({ counts: { ...soundFacts.counts, ...change } })
const text = (change: object): Uint8Array => facts({ texts: [{ ...textFacts(tokensOfSound), ...change }] })
const tensor = (name: string, change: Partial<RawTensor> | undefined): Uint8Array => {
  const { [name]: old, ...rest } = soundTensors
  const tensors: RawTensors = change === undefined ? rest : { ...soundTensors, [name]: { ...old, ...change } }
  return statisticsBytes(soundFacts, tensors)
}
const value = (name: string, index: number, becomes: number): Uint8Array =>
  tensor(name, { values: soundTensors[name].values.with(index, becomes) })

const lies: [string, Uint8Array, RegExp][] = [
  ['no metadata', statisticsBytes(null), /holds no statistics; `quantize calibrate <model> -o` writes them/],
  ['metadata of another tool', statisticsBytes('1'), /its metadata is no statistics of version 1: Invalid input/],
  ['metadata that is no JSON', statisticsBytes('{"statistics":'), /is not JSON/],
  ['metadata that is a list', statisticsBytes('[]'), /no statistics of version 1/],
  ['metadata nested deeply', statisticsBytes(`${'['.repeat(100)}${']'.repeat(100)}`), /nested deeper than 64/],
  ['another version', facts({ statistics: 2 }), /no statistics of version 1: statistics: /],
  ['a key more', facts({ more: 1 }), /no statistics of version 1: .*more/],
  ['no text', facts({ texts: [] }), /no statistics of version 1: texts/],
  ['a hash that is none', facts({ model: { 'model.safetensors': 'x' } }), /version 1: model: model\.safetensors/],
  ['a negative count', counts({ 'a.q_proj': -1 }), /version 1: counts: a\.q_proj: /],
  ['a count of 0', counts({ 'a.q_proj': 0 }), /version 1: counts: a\.q_proj: /],
  ['a count that is no whole number', counts({ 'a.q_proj': 1.5 }), /version 1: counts: a\.q_proj: /],
  ['a count beyond 2^53', counts({ 'a.q_proj': 2 ** 60 }), /version 1: counts: a\.q_proj: /],
  ['more tokens than were used', counts({ 'a.q_proj': 13 }), /input of a\.q_proj saw 13 tokens, of 12 that were used/],
  ['fewer tokens than values', counts({ 'a.q_proj': 11 }), /input of a\.q_proj: its bins count 36 values, not 33/],
  ['tokens beyond 2^53 in all', facts({ texts: [0, 1].map(i => textFacts(2 ** 53 - 1, i)) }), /beyond 2\^53 - 1/],
  ['a negative number of tokens', text({ tokensUsed: -12 }), /version 1: texts: 0: tokensUsed/],
  ['no input', facts({ counts: {} }), /has statistics of no input/],
  ['an input without tensors', counts({ b: 12 }), /lacks b\.mean/],
  ['tensors without an input', facts({ counts: { 'a.q_proj': 12 } }), /holds a\.down_proj\.\S+, which is of no input/],
  ['a tensor too few', tensor('a.q_proj.max', undefined), /lacks a\.q_proj\.max/],
  [
    'a tensor too many',
    statisticsBytes(soundFacts, { ...soundTensors, more: soundTensors['a.q_proj.min'] }),
    /holds more, which is of no input/,
  ],
  [
    'a name of the prototype',
    statisticsBytes(
      JSON.stringify(soundFacts).replaceAll('a.q_proj', '__proto__'),
      Object.fromEntries(
        Object.entries(soundTensors).map(([name, raw]) => [name.replace('a.q_proj', '__proto__'), raw]),
      ),
    ),
    /holds __proto__\.\S+, which is of no input/,
  ],
  ['a name of a method', counts({ toString: 12 }), /lacks toString\.mean/],
  ['a name that drives the terminal', counts({ '\u001b[2J': 12 }), /lacks \\u\{1b\}\[2J\.mean/],
  ['another dtype', tensor('a.q_proj.min', { dtype: 'I32' }), /a\.q_proj\.min is I32 \[3\], not F32 \[3\]/],
  ['float32 bins', tensor('a.q_proj.histogram', { dtype: 'F32', shape: [8192] }), /histogram is F32 \[8192\], not F64/],
  ['two dimensions', tensor('a.q_proj.mean', { shape: [3, 1] }), /a\.q_proj\.mean is F32 \[3,1\], not F32 \[3\]/],
  [
    'a square Gram matrix',
    tensor('a.q_proj.gram', { shape: [9], values: new Float32Array(9) }),
    /a\.q_proj\.gram is F32 \[9\], not F32 \[6\]/,
  ],
  [
    'a channel more',
    tensor('a.q_proj.max', { shape: [4], values: new Float32Array(4) }),
    /a\.q_proj\.max is F32 \[4\], not F32 \[3\]/,
  ],
  ['a scalar', tensor('a.q_proj.mean', { shape: [], values: new Float32Array(1) }), /lacks a\.q_proj\.mean|\[\]/],
  [
    'no channels',
    tensor('a.q_proj.mean', { shape: [0], values: new Float32Array(0) }),
    /the input of a\.q_proj has no channels/,
  ],
  ...['gram', 'mean', 'abs_mean', 'min', 'max', 'histogram'].flatMap(part =>
    [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY].map(
      odd =>
        [
          `${odd} in ${part}`,
          value(`a.q_proj.${part}`, 1, odd),
          new RegExp(`a\\.q_proj\\.${part} holds a value that is not finite`),
        ] as [string, Uint8Array, RegExp],
    ),
  ),
  ['a negative square', value('a.q_proj.gram', 3, -1), /input of a\.q_proj: channel 1 has a mean square of -1/],
  ['a negative magnitude', value('a.q_proj.abs_mean', 2, -1), /channel 2 has a mean magnitude of -1/],
  ['a least value above the largest', value('a.q_proj.min', 0, 2), /channel 0 has a least value of 2 and a largest of/],
  ['a negative bin', value('a.q_proj.histogram', 5, -1), /bin 5 counts -1 values/],
  ['half a value in a bin', value('a.q_proj.histogram', 5, 0.5), /bin 5 counts 0\.5 values/],
  ['a bin beyond 2^53', value('a.q_proj.histogram', 5, 2 ** 60), /bin 5 counts 1152921504606847000 values/],
  ['values that are not finite', value('a.q_proj.histogram', 2040, 1), /bin 2040, of values that are not finite/],
  ['a value more', value('a.q_proj.histogram', 5, 1), /its bins count 37 values, not 36/],
]

describe('a statistics file with a lie in it', () => {
  it('is a sound one but for the lie', () => {
    expect(() => readAll(statisticsBytes())).not.toThrow()
    expect(() => readAll(value('a.q_proj.abs_mean', 2, 0))).not.toThrow() // less than |mean|: rounding may do that
  })

  it.each(lies)('is refused: %s', (_, bytes, says) => {
    const message = refusal(() => readAll(bytes))
    expect(message).toMatch(says)
    expect(message).toContain(path)
    expect(message).not.toMatch(/[\p{Cf}\p{Zl}\p{Zp}]/u)
  })

  it('is refused wherever it is cut off', () => {
    const sound = statisticsBytes()
    for (let end = 0; end < sound.length; end += end < 3000 ? 61 : 4999)
      expect(refusal(() => readAll(sound.slice(0, end)))).toContain('stats.safetensors')
  })
})
