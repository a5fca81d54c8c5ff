import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { dequantize } from '../../src/dequantize.ts'
import { layoutOf } from '../../src/gguf/block-layouts.ts'
import { decodedTypes, packBlocks, unpackBlocks } from '../../src/gguf/blocks.ts'
import { blocksOf, codedOf, rowBytes } from '../../src/gguf/coded.ts'
import { type GgmlTypeName, ggmlTypeName, ggmlTypes } from '../../src/gguf/types.ts'
import { expectFailure } from '../format/storage-linears.ts'

/** fixtures/ggml-blocks/make.py: what ggml's dequantize_row_* and gguf-py give, which is the same. */
const recorded: Record<string, { blocks: string; values: string }> = JSON.parse(
  readFileSync(new URL('../../fixtures/ggml-blocks/blocks.json', import.meta.url), 'utf8'),
)
const fromBase64 = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'base64'))
const bytesOf = (values: Float32Array): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength).slice()
const written = decodedTypes.filter(type => type !== 'Q8_K')
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const bytes = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text.replace(/[ |]/g, ''), 'hex'))

/** As a column of one row. */
const decode = (type: GgmlTypeName, data: Uint8Array): Float32Array => {
  const blocks = unpackBlocks(type, data)
  return dequantize(codedOf(type, blocks, 1, blocks.codes.length))
}

describe('types', () => {
  it('have the numbers and sizes of ggml', () => {
    expect(Object.values(ggmlTypes).map(({ id }) => ggmlTypeName(id))).toEqual(Object.keys(ggmlTypes))
    expect(ggmlTypeName(4)).toBeUndefined()
    const bits = (type: GgmlTypeName) => (8 * ggmlTypes[type].bytes) / ggmlTypes[type].block
    expect(['Q4_0', 'Q6_K', 'Q2_K', 'IQ4_XS', 'MXFP4'].map(type => bits(type as GgmlTypeName))).toEqual([
      4.5, 6.5625, 2.625, 4.25, 4.25,
    ])
    expect(rowBytes('Q4_K', 512)).toBe(288)
  })
})

describe('blocks', () => {
  it('covers every type that is recorded, and no other', () =>
    expect(Object.keys(recorded).sort()).toEqual([...decodedTypes].sort()))

  it.each(decodedTypes)('%s decodes to the bits of ggml', type => {
    const { blocks, values } = recorded[type]
    expect(hex(bytesOf(decode(type, fromBase64(blocks))))).toBe(hex(fromBase64(values)))
  })

  it.each(written)('%s packs what it unpacked', type => {
    const stored = fromBase64(recorded[type].blocks)
    const blocks = unpackBlocks(type, stored)
    expect(hex(packBlocks(type, blocks))).toBe(hex(stored))
    const linear = codedOf(type, blocks, 3, ggmlTypes[type].block)
    expect(hex(packBlocks(type, blocksOf(type, linear)))).toBe(hex(stored))
  })

  it.each(written)('%s keeps all codes of its width', type => {
    const { bits, scales } = layoutOf(type)!
    const { block } = ggmlTypes[type]
    const most = type === 'TQ1_0' || type === 'TQ2_0' ? 2 : 2 ** bits - 1
    const [low, high] = { Q2_K: [0, 15], Q4_K: [0, 63], Q5_K: [0, 63], Q6_K: [-128, 127] }[type as string] ?? [-32, 31]
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 2 * block, maxLength: 2 * block, max: most }),
        fc.array(fc.integer({ min: low, max: high }), { minLength: 32, maxLength: 32 }),
        fc.array(fc.integer({ min: 0, max: Math.max(0, high) }), { minLength: 32, maxLength: 32 }),
        (codes, some, minima) => {
          const count = 2 * (scales?.count ?? 0)
          const given = {
            codes,
            d: Float32Array.of(0.5, 0.25),
            dmin: layoutOf(type)!.dmin === undefined ? new Float32Array(0) : Float32Array.of(2, 1),
            scaleCodes: new (scales && low < 0 ? Int8Array : Uint8Array)(some.slice(0, count)),
            minCodes: new Uint8Array(scales?.minima ? minima.slice(0, count) : []),
          }
          expect(unpackBlocks(type, packBlocks(type, given))).toEqual(given)
        },
      ),
      { numRuns: 30 },
    )
  })

  it.each([
    ['Q4_0', '00 40 | 80 91 91 a2 a2 b3 b3 c4 c4 d5 d5 e6 e6 f7 f7 f8', 2],
    [
      'Q8_0',
      `08 30 | ${[...Array(32).keys()].map(i => ((Math.round(((i - 16) * 127) / 16) + 256) % 256).toString(16).padStart(2, '0')).join('')}`,
      0.13,
    ],
    ['Q4_1', '22 40 00 cc | 80 80 91 91 a2 a2 b3 b3 c4 c4 d5 d5 e6 e6 f7 f7', 1.1],
    ['Q5_0', '00 3c | 00 00 ff ff | 00 11 22 33 44 55 66 77 88 99 aa bb cc dd ee ff', 0],
  ] as const)('%s: the worked example of −16 … 15', (type, text, most) => {
    const values = decode(type, bytes(text))
    const furthest = Math.max(...values.map((value, i) => Math.abs(value - (i - 16))))
    expect(furthest).toBeLessThanOrEqual(most)
    expect(furthest > 0).toBe(most > 0)
  })

  it('Q4_K: the worked example of its scales', () => {
    const stored = new Uint8Array(144)
    stored.set(bytes('81 ca d4 de 82 c4 c8 d0 08 02 8c ff'), 4)
    const { scaleCodes, minCodes } = unpackBlocks('Q4_K', stored)
    expect([...scaleCodes]).toEqual([1, 10, 20, 30, 40, 50, 60, 63])
    expect([...minCodes]).toEqual([2, 4, 8, 16, 32, 48, 56, 63])
  })

  it('refuses lattices, activations and parts of a block', () => {
    expectFailure(() => unpackBlocks('IQ2_XXS', new Uint8Array(66)), 'unsupported', /^IQ2_XXS is not decoded; Q4_0, /)
    expect(() => unpackBlocks('Q4_0', new Uint8Array(19))).toThrow(RangeError)
    const q8 = unpackBlocks('Q8_K', fromBase64(recorded.Q8_K.blocks))
    expectFailure(() => packBlocks('Q8_K', q8), 'unsupported', /Q8_0/)
    expect(() => blocksOf('Q4_K', { ...codedOf('Q8_K', q8, 3, 256) })).toThrow('super-blocks')
  })
})
