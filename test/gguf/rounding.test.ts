/** Bytes that ggml's ggml_quantize_chunk gave (fixtures/ggml-rounding/make.py), by their hashes. */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createKernels, type Kernels } from '../../src/engine/kernel/pool.ts'
import { roundBlocks } from '../../src/engine/kernel/round-blocks.ts'
import { packBlocks, unpackBlocks } from '../../src/gguf/blocks.ts'
import { ggmlTypes, roundedTypes } from '../../src/gguf/types.ts'

interface Recorded {
  readonly rows: number
  readonly columns: number
  /** Of the values and of the importances, float32. */
  readonly input: string
  readonly importances: string
  /** By type: without and with importances. */
  readonly blocks: Record<string, readonly [string, string]>
}

const folder = new URL('../../fixtures/ggml-rounding/', import.meta.url)
const recorded: Recorded = JSON.parse(readFileSync(new URL('hashes.json', folder), 'utf8'))
const { rows, columns } = recorded

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')
const bytesOf = (values: Float32Array): Uint8Array =>
  new Uint8Array(values.buffer as ArrayBuffer, values.byteOffset, values.byteLength)

/** A multiplicative congruential generator in integers, the same in make.py: whole numbers below 2^24. */
const generator = () => {
  let state = 1n
  return (): number => {
    state = (state * 6364136223846793005n + 1442695040888963407n) % 2n ** 64n
    return Number(state >> 40n)
  }
}

/** Rows of every kind that the searches know: bell-shaped, with outliers, of one sign, constant, zeros, tiny, on a coarse grid. */
const input = (): Float32Array => {
  const next = generator()
  const bell = (): number => next() + next() + next() + next() - 2 ** 25
  const kinds: readonly ((value: number, column: number) => number)[] = [
    value => value * 2 ** -30,
    (value, column) => value * (column % 61 === 7 ? 2 ** -24 : 2 ** -31),
    value => Math.abs(value) * 2 ** -30,
    value => -Math.abs(value) * 2 ** -28,
    (value, column) => (column < columns / 2 ? 0.5 : value * 2 ** -30),
    () => 0,
    value => value * 2 ** -90,
    value => Math.floor(value / 2 ** 21 + 0.5) / 16,
  ]
  return Float32Array.from({ length: rows * columns }, (_, i) =>
    kinds[Math.floor(i / columns) % kinds.length](bell(), i % columns),
  )
}

const importances = (): Float32Array => {
  const next = generator()
  return Float32Array.from({ length: columns }, (_, i) => (i % 97 === 0 ? 0 : next() * 2 ** -20))
}

describe('roundBlocks', () => {
  let kernels: Kernels
  beforeAll(async () => {
    kernels = await createKernels(2)
  })
  afterAll(() => kernels.close())

  const round = (type: (typeof roundedTypes)[number], weighted: boolean, values = input()) =>
    roundBlocks(
      kernels,
      { name: 'w', out: values.length / columns, in: columns, dtype: 'F32', source: bytesOf(values) },
      type,
      weighted ? importances() : undefined,
    )

  it('is given what ggml was given', () => {
    expect(sha256(bytesOf(input()))).toBe(recorded.input)
    expect(sha256(bytesOf(importances()))).toBe(recorded.importances)
    expect(Object.keys(recorded.blocks)).toEqual([...roundedTypes])
  })

  it.each(roundedTypes.flatMap(type => [[type, false] as const, [type, true] as const]))(
    '%s, importances %s: the bytes of ggml',
    async (type, weighted) => {
      const blocks = await round(type, weighted)
      expect(sha256(blocks)).toBe(recorded.blocks[type][Number(weighted)])
      expect(packBlocks(type, unpackBlocks(type, blocks))).toEqual(blocks)
    },
  )

  it('reads bf16 and f16 as what they stand for', async () => {
    const values = Float32Array.from({ length: columns }, (_, i) => ((i % 17) - 8) / 16)
    const expected = await round('Q4_K', false, values)
    const halves = { BF16: 16, F16: 13 } as const
    for (const dtype of ['BF16', 'F16'] as const) {
      const words = new Uint32Array(values.buffer)
      const source = new Uint8Array(
        Uint16Array.from(words, (word, i) =>
          dtype === 'BF16'
            ? word >>> 16
            : values[i] === 0
              ? 0
              : ((word >>> 16) & 0x8000) | (((word & 0x7fffffff) - 0x38000000) >> halves.F16),
        ).buffer,
      )
      expect(await roundBlocks(kernels, { name: 'w', out: 1, in: columns, dtype, source }, 'Q4_K')).toEqual(expected)
    }
  })

  it('names a value that is not finite, and a width that does not fit', async () => {
    const values = input()
    values[3 * columns + 5] = Number.NaN
    await expect(round('Q4_0', false, values)).rejects.toThrow('w: row 3, column 5 is NaN')
    const narrow = { name: 'w', out: 1, in: 96, dtype: 'F32' as const, source: new Uint8Array(384) }
    await expect(roundBlocks(kernels, narrow, 'Q4_K')).rejects.toThrow('Q4_K wants inputs of a multiple of 256, not 96')
    expect((await roundBlocks(kernels, narrow, 'Q8_0')).length).toBe(3 * ggmlTypes.Q8_0.bytes)
  })
})
