import fs from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createShardWriter } from '../../src/checkpoint/write-safetensors.ts'
import { readGgufHeader } from '../../src/gguf/header.ts'
import { openGguf } from '../../src/gguf/open-gguf.ts'
import { type GgmlTypeName, ggmlTypes } from '../../src/gguf/types.ts'
import { arrayOf, type GgufScalar, type GgufScalarType, type GgufValue, single } from '../../src/gguf/values.ts'
import { planGguf } from '../../src/gguf/write-gguf.ts'
import { nodeFiles } from '../../src/io/files.ts'
import { refusal } from '../checkpoint/support.ts'
import { memoryFiles } from '../fuzz/memory-files.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'
import '../seed.ts'
import { writeAll } from './write-all.ts'

const folder = temporaryFolder()
const fixtures = new URL('../../fixtures/gguf/', import.meta.url).pathname

describe.each(['values', 'padded'])('%s.gguf of gguf-py', name => {
  it('is written again to the byte', () => {
    const { metadata, tensors } = openGguf(join(fixtures, `${name}.gguf`), nodeFiles)
    const plan = planGguf(`${name}.gguf`, metadata, [...tensors.values()])
    writeAll(folder, plan, tensor => tensors.get(tensor)!.read())
    const written = fs.readFileSync(join(folder, plan.file))
    expect(written.equals(fs.readFileSync(join(fixtures, plan.file)))).toBe(true)
    expect(written.length).toBe(plan.bytes)
  })
})

const scalars: Record<GgufScalarType, fc.Arbitrary<GgufScalar>> = {
  u8: fc.nat(255),
  i8: fc.integer({ min: -128, max: 127 }),
  u16: fc.nat(65_535),
  i16: fc.integer({ min: -32_768, max: 32_767 }),
  u32: fc.nat(2 ** 32 - 1),
  i32: fc.integer(),
  f32: fc.float(),
  bool: fc.boolean(),
  string: fc.string({ unit: 'grapheme' }),
  u64: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  i64: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  f64: fc.double(),
}

const value: fc.Arbitrary<GgufValue> = fc.constantFrom(...(Object.keys(scalars) as GgufScalarType[])).chain(type =>
  fc.oneof(
    scalars[type].map(item => single(type, item)),
    fc.array(scalars[type], { maxLength: 5 }).map(items => arrayOf(type, items)),
  ),
)

const tensor = fc
  .tuple(
    fc.constantFrom(...(Object.keys(ggmlTypes) as GgmlTypeName[])),
    fc.array(fc.nat(3), { maxLength: 3 }),
    fc.nat(2),
  )
  .map(([type, outer, blocks]) => ({ type, shape: [...outer, blocks * ggmlTypes[type].block] }))

const plain = (stored: GgufValue) =>
  stored.type === 'array' ? [stored.of, ...stored.values()] : [stored.type, stored.value]

describe('planGguf', () => {
  it('is read back as it was given', () => {
    const entries = fc.uniqueArray(fc.tuple(fc.string({ minLength: 1, unit: 'grapheme' }), value), {
      selector: ([key]) => key,
      maxLength: 6,
    })
    fc.assert(
      fc.property(entries, fc.array(tensor, { maxLength: 5 }), (keys, shapes) => {
        const tensors = shapes.map((shape, i) => ({ name: `t${i}`, ...shape }))
        const { header, bytes, tensors: placed } = planGguf('m.gguf', new Map(keys), tensors)
        const file = new Uint8Array(bytes)
        file.set(header)
        const { files } = memoryFiles({ 'm.gguf': file })
        const found = readGgufHeader(files, files.open('m.gguf', 'read'), 'm.gguf')
        expect([...found.metadata].map(([key, item]) => [key, plain(item)])).toEqual(
          keys.map(([key, item]) => [key, plain(item)]),
        )
        expect(found.tensors).toMatchObject(tensors)
        expect(found.tensors.map(({ offset }) => offset)).toEqual(placed.map(({ offset }) => offset))
      }),
      { numRuns: 300 },
    )
  })

  const f32 = { name: 'a', type: 'F32', shape: [4] } as const
  it.each([
    ['a long name', { ...f32, name: 'é'.repeat(32) }, /has a name of more than 63 bytes/],
    ['five dimensions', { ...f32, shape: [1, 1, 1, 1, 1] }, /has 5 dimensions; GGUF holds 4/],
    [
      'part of a block',
      { ...f32, type: 'Q4_K', shape: [2, 128] } as const,
      /rows of 128 weights, which are no whole blocks of 256/,
    ],
  ])('refuses %s', (_, wrong, message) => {
    expect(refusal(() => planGguf('m.gguf', new Map(), [wrong]), 'unsupported')).toMatch(message)
  })

  it('refuses a name twice, and values outside their type', () => {
    expect(refusal(() => planGguf('m.gguf', new Map(), [f32, f32]))).toMatch(/"a": the name comes twice/)
    const wrong: [GgufScalarType, GgufScalar][] = [
      ['u8', 256],
      ['i8', -129],
      ['u32', -1],
      ['u32', 1.5],
      ['i32', 2 ** 31],
      ['u64', -1n],
      ['i64', 2n ** 63n],
      ['bool', 1],
      ['f32', '1'],
      ['string', '\ud800'],
    ]
    for (const [type, item] of wrong)
      expect(() => planGguf('m.gguf', new Map([['a', single(type, item)]]), [])).toThrow(RangeError)
  })
})

describe('the writer of planned files', () => {
  const at = (rows: readonly number[]) => Int32Array.from(rows)
  const plan = planGguf(
    'pieces.gguf',
    new Map(),
    [
      { name: 'a', called: 'x', type: 'F32', shape: [3] },
      { name: 'b', type: 'Q8_0', shape: [3, 32], rows: at([2, 0, 1]) },
    ],
    [{ name: 'known', type: 'F32', shape: [1], data: Buffer.from('kkkk') }],
  )
  const row = (letter: string): string => letter.repeat(34)

  it('puts constants first, rows in their places, and zeros between', () => {
    const writer = createShardWriter(folder, [plan], nodeFiles)
    writer.write('x', Buffer.from('01234'))
    writer.write('x', Buffer.from('5678901'), 5)
    writer.write('b', Buffer.from(row('p') + row('q').slice(5)))
    writer.write('b', Buffer.from(row('q').slice(29) + row('r')), 63)
    expect(Buffer.from(writer.read('b').read()).toString()).toBe(row('p') + row('q') + row('r'))
    expect(Buffer.from(writer.read('b').read(30, 70)).toString()).toBe(`pppp${row('q')}rr`)
    writer.finish()
    writer.close()
    const written = fs.readFileSync(join(folder, plan.file))
    const pad = (bytes: number): string => '\0'.repeat(bytes)
    const expected = `kkkk${pad(28)}012345678901${pad(20)}${row('q')}${row('r')}${row('p')}${pad(26)}`
    expect(written.subarray(plan.tensors[0].offset - 32).toString('latin1')).toBe(expected)
    const { tensors } = openGguf(join(folder, plan.file), nodeFiles)
    expect([...tensors.keys()]).toEqual(['known', 'a', 'b'])
    expect(
      Buffer.from(
        tensors
          .get('b')!
          .as('c', at([2, 0, 1]))
          .read(34, 102),
      ).toString(),
    ).toBe(row('q') + row('r'))
  })
})
