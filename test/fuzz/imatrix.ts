/** Importance matrices in both forms, near sound ones: parts replaced by odd numbers, doubled or dropped, then some bytes changed. */
import fc from 'fast-check'
import { QuantizeError } from '../../src/errors.ts'
import { type Imatrix, readImatrix, writeImatrix } from '../../src/gguf/imatrix.ts'
import { info, text, u32, u64 } from '../gguf/raw.ts'
import { byteEdits } from './json-tree.ts'
import { memoryFiles } from './memory-files.ts'
import type { Parser } from './parsers.ts'

const f32 = (...values: readonly number[]): Buffer => Buffer.from(Float32Array.from(values).buffer)
const name = 'blk.0.attn_q.weight'
const sums = f32(0, 1.5, 3.25, 100, 1e-40)

const datParts: readonly Buffer[] = [
  u32(2),
  ...[u32(name.length), Buffer.from(name), u32(3), u32(5), sums],
  ...[u32(13), Buffer.from('output.weight'), u32(0), u32(2), f32(0.5, 7)],
  ...[u32(6), u32(5), Buffer.from('a.txt')],
]

const chunkSize = u32(64)
const ggufParts: readonly Buffer[] = [
  ...[Buffer.from('GGUF'), u32(3), u64(4), u64(4)],
  ...[text('general.type'), u32(8), text('imatrix')],
  ...[text('imatrix.datasets'), u32(9), u32(8), u64(1), text('a.txt')],
  ...[text('imatrix.chunk_count'), u32(4), u32(6)],
  ...[text('imatrix.chunk_size'), u32(4), chunkSize],
  info(`${name}.in_sum2`, [5], 0, 0),
  info(`${name}.counts`, [1], 0, 32),
  info('output.weight.in_sum2', [2, 1], 0, 64),
  info('output.weight.counts', [1, 1], 0, 96),
]
const pad = (bytes: Buffer): Buffer => Buffer.concat([bytes, Buffer.alloc((32 - (bytes.length % 32)) % 32)])
const ggufData: readonly Buffer[] = [sums, f32(384), f32(0.5, 7), f32(0)].map(pad)

const odd: fc.Arbitrary<Buffer> = fc.oneof(
  fc.nat(70).map(u32),
  fc.nat(70).map(u64),
  fc.constantFrom(2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 24 + 1).map(u32),
  fc.constantFrom(2n ** 32n, 2n ** 53n, 2n ** 63n).map(u64),
  fc.constantFrom(Number.NaN, Number.POSITIVE_INFINITY, -1, -0, 0, 1e38, 2 ** 40, 2.5).map(value => f32(value)),
  fc.constantFrom('blk.1.ffn_up_exps.weight', '', '\0', '\u001b[2J', '__proto__', 'n'.repeat(63)).map(Buffer.from),
  fc.constantFrom(0, 2, 3).map(size => info(`${name}.counts`, [size], 0, 32)),
  fc.constantFrom(0, 8, 1).map(type => info(`${name}.in_sum2`, [5], type, 0)),
)

type Edit = (parts: Buffer[]) => void

const edit: fc.Arbitrary<Edit> = fc
  .tuple(fc.constantFrom('replace', 'splice', 'drop', 'double', 'copy'), fc.nat(10_000), fc.nat(10_000), odd)
  .map(([kind, from, to, other]) => parts => {
    const at = from % parts.length
    if (kind === 'replace') parts[at] = other
    else if (kind === 'splice') {
      const start = to % (parts[at].length + 1)
      parts[at] = Buffer.concat([parts[at].subarray(0, start), other, parts[at].subarray(start + other.length)])
    } else if (kind === 'drop') parts[at] = Buffer.alloc(0)
    else if (kind === 'double') parts.splice(at, 0, parts[at])
    else parts[to % parts.length] = parts[at]
  })

const applied = (parts: readonly Buffer[], edits: readonly Edit[]): Buffer => {
  const list = [...parts]
  for (const apply of edits) apply(list)
  return Buffer.concat(list)
}

const edits = fc.array(edit, { maxLength: 3 })
const dat = edits.map(list => applied(datParts, list))
const gguf = fc
  .tuple(edits, edits)
  .map(([ofHeader, ofData]) =>
    Buffer.concat([pad(applied(ggufParts, ofHeader)), applied(ggufData, ofData.slice(1)), Buffer.alloc(32)]),
  )
const file = fc.tuple(fc.oneof(dat, gguf), byteEdits).map(([bytes, change]) => change(new Uint8Array(bytes)))

const expectThat = (holds: boolean, what: string): void => {
  if (!holds) throw new Error(`not true: ${what}`)
}

/** What is written in another form may be refused there. */
const rewritten = (path: string, imatrix: Imatrix): Imatrix | undefined => {
  let content = new Uint8Array()
  const { files } = memoryFiles({})
  try {
    writeImatrix(path, imatrix, {
      ...files,
      writeText(_, written) {
        content = new Uint8Array(written as Uint8Array)
      },
    })
  } catch (error) {
    if (!(error instanceof QuantizeError)) throw error
    return undefined
  }
  return readImatrix(path, memoryFiles({ [path]: content }).files)
}

const expectNear = (found: Imatrix, wanted: Imatrix, isSame: boolean): void => {
  expectThat(found.chunks === wanted.chunks && found.entries.size === wanted.entries.size, 'all of it comes back')
  for (const [key, { values, count }] of wanted.entries) {
    const other = found.entries.get(key)!
    expectThat(!isSame || other.count === count, 'counts come back')
    for (const [column, value] of values.entries()) {
      expectThat(value >= 0 && value <= 1e30 * (1 + 2 ** -23), 'means are finite, positive and not too large')
      const off = Math.abs(other.values[column] - value)
      expectThat(isSame ? off === 0 : off <= value * 2 ** -22 + 2 ** -149, 'means come back')
    }
  }
}

export const imatrixParser: Parser = {
  name: 'imatrix',
  file,
  parse(bytes) {
    const { files, largestRead, open } = memoryFiles({ 'm.imatrix': bytes })
    let imatrix: Imatrix
    try {
      imatrix = readImatrix('m.imatrix', files)
    } finally {
      expectThat(open() === 0, 'every file is closed')
    }
    const isDat = Buffer.from(bytes.subarray(0, 4)).toString('latin1') !== 'GGUF'
    for (const path of ['m.gguf', 'm.dat']) {
      const again = rewritten(path, imatrix)
      if (again) expectNear(again, imatrix, isDat === path.endsWith('.dat'))
    }
    return largestRead()
  },
  quick: 4000,
}
