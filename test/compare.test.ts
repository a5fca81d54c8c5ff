import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { beyondTolerance, compareCheckpoints, isIdentical, type ValueComparison } from '../src/compare.ts'
import type { Checkpoint, TensorSource } from '../src/contracts.ts'
import { decodedCheckpoint } from '../src/decoded-checkpoint.ts'
import { dequantize } from '../src/dequantize.ts'
import { fromFloat32, toFloat32 } from '../src/dtype/convert.ts'
import { type Dtype, dtypeBits } from '../src/dtype/dtype.ts'
import { formats } from '../src/format/index.ts'
import { randomLinear, schemeFor, sourceOf } from './format/linears.ts'

const checkpointOf = (...tensors: readonly TensorSource[]): Checkpoint => ({
  ...{ path: 'm', folder: 'm', files: [], metadata: {}, close: () => {} },
  tensors: new Map(tensors.map(tensor => [tensor.name, tensor])),
})

const stored = (name: string, dtype: Dtype, data: Uint8Array, shape?: readonly number[]): TensorSource =>
  sourceOf({ name, dtype, data, bytes: data.length, shape: shape ?? [data.length / (dtypeBits[dtype] / 8)] })

const floats = (name: string, values: readonly number[], dtype: 'F32' | 'F16' | 'BF16' = 'F32', shape?: number[]) =>
  stored(name, dtype, fromFloat32(Float32Array.from(values), dtype), shape)

const compared = (a: readonly TensorSource[], b: readonly TensorSource[]) =>
  compareCheckpoints(checkpointOf(...a), checkpointOf(...b), () => {})

const compareValues = async (a: readonly number[], b: readonly number[]): Promise<ValueComparison> =>
  (await compared([floats('x', a)], [floats('x', b)])).tensors[0] as ValueComparison

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)

describe('values', () => {
  const numbers = fc.float({ min: -1000, max: 1000, noNaN: true })

  it('have the figures of their definitions', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(numbers, numbers), { minLength: 1, maxLength: 40 }), async pairs => {
        const [a, b] = [pairs.map(([x]) => x), pairs.map(([, y]) => y)]
        const { sqnrDb, maxAbsError, cosine, notFinite } = await compareValues(a, b)
        const energy = sum(a.map(x => x * x))
        const error = sum(pairs.map(([x, y]) => (x - y) ** 2))
        const other = sum(b.map(y => y * y))
        expect(maxAbsError).toBe(Math.max(...pairs.map(([x, y]) => Math.abs(x - y))))
        expect(notFinite).toBe(0)
        if (energy > 0 && error > 0) expect(sqnrDb).toBeCloseTo(10 * Math.log10(energy / error), 6)
        else expect(sqnrDb).toBeNull()
        if (energy > 0 && other > 0)
          expect(cosine).toBeCloseTo(sum(pairs.map(([x, y]) => x * y)) / Math.sqrt(energy) / Math.sqrt(other), 6)
        else expect(cosine).toBeNull()
      }),
    )
  })

  it('that are small: SQNR 20 dB, cosine and error by hand', async () => {
    const { sqnrDb, maxAbsError, cosine } = await compareValues([3, 4], [3.5, 4])
    expect([sqnrDb, maxAbsError, cosine]).toEqual([
      expect.closeTo(20, 10),
      0.5,
      expect.closeTo(26.5 / (5 * Math.sqrt(28.25)), 12),
    ])
  })

  it('are the same in any dtype', async () => {
    const values = [1, -2.5, 0, 96]
    for (const dtype of ['F16', 'BF16', 'F32'] as const) {
      const { tensors } = await compared([floats('x', values)], [floats('x', values, dtype)])
      expect(tensors[0]).toMatchObject({ by: 'values', maxAbsError: 0, sqnrDb: null, cosine: 1 })
      expect(tensors.every(isIdentical)).toBe(true)
    }
  })

  it('are counted where they are not finite on one side, and left out', async () => {
    const [nan, infinite] = [Number.NaN, Number.POSITIVE_INFINITY]
    expect(await compareValues([nan, infinite, -infinite, 2], [nan, infinite, -infinite, 3])).toMatchObject({
      notFinite: 0,
      maxAbsError: 1,
    })
    expect(await compareValues([nan, infinite, 1, 2], [1, -infinite, nan, 2])).toMatchObject({
      notFinite: 3,
      maxAbsError: 0,
    })
    const { tensors } = await compared([floats('x', [nan])], [floats('x', [0])])
    expect(tensors.map(isIdentical)).toEqual([false])
  })

  it('are read in pieces, to the last one', async () => {
    const values = new Float32Array(2 ** 20 + 3).fill(1)
    const other = values.slice()
    other[2 ** 20 + 2] = 3
    const reads: number[] = []
    const counting = (source: TensorSource): TensorSource => ({
      ...source,
      read(start, end) {
        reads.push(end! - start!)
        return source.read(start, end)
      },
    })
    const [a, b] = [values, other].map(data => counting(stored('x', 'F32', fromFloat32(data, 'F32'))))
    expect((await compared([a], [b])).maxAbsError).toBe(2)
    expect(reads).toEqual([2 ** 22, 2 ** 22, 12, 12])
  })

  it('of quantized weights are the decoded ones', async () => {
    const linear = randomLinear({ out: 16, in: 64, bits: 4, groups: 2, order: 'none', lowest: 1, seed: 3 })
    const packed = formats.gptq.pack(schemeFor('m', linear), linear).map(sourceOf)
    const config = { quantization_config: { quant_method: 'gptq', bits: 4, group_size: 32, sym: false } }
    const linears = formats.gptq.detect(new Map(packed.map(part => [part.name, part])), { 'config.json': config })!
    const configs = { 'config.json': config }
    const coded = decodedCheckpoint(checkpointOf(...packed), { format: formats.gptq, linears }, configs)
    const decoded = dequantize(linear)
    const plain = checkpointOf(floats('m.weight', [...decoded], 'F16', [16, 64]))
    const { tensors, onlyInA, onlyInB } = await compareCheckpoints(coded, plain, () => {})
    const rounded = toFloat32(fromFloat32(decoded, 'F16'), 'F16')
    expect(tensors).toMatchObject([
      {
        name: 'm.weight',
        a: { stored: 'gptq int4', shape: [16, 64] },
        b: { stored: 'F16', shape: [16, 64] },
        maxAbsError: Math.max(...rounded.map((value, i) => Math.abs(value - decoded[i]))),
      },
    ])
    expect([onlyInA, onlyInB]).toEqual([[], []])
  })
})

describe('what is not compared by value', () => {
  it('bytes are counted', async () => {
    const bytes = (...values: number[]) => stored('x', 'I32', Uint8Array.from(values))
    const { tensors } = await compared([bytes(1, 2, 3, 4, 5, 6, 7, 8)], [bytes(1, 2, 0, 4, 5, 6, 7, 0)])
    expect(tensors).toMatchObject([{ by: 'bytes', differingBytes: 2 }])
    expect((await compared([bytes(1, 2, 3, 4)], [bytes(1, 2, 3, 4)])).tensors.map(isIdentical)).toEqual([true])
  })

  it('other shapes and other kinds of dtype are told', async () => {
    const { tensors } = await compared(
      [floats('x', [1, 2, 3, 4]), floats('y', [1]), floats('z', [1, 2], 'F32', [2, 1])],
      [
        floats('x', [1, 2, 3, 4], 'F32', [2, 2]),
        stored('y', 'I32', new Uint8Array(4)),
        floats('z', [1, 2], 'F32', [1, 2]),
      ],
    )
    expect(tensors.map(tensor => tensor.by === 'none' && tensor.differs)).toEqual(['shape', 'dtype', 'shape'])
    expect(tensors.some(isIdentical)).toBe(false)
  })

  it('what one side lacks is listed', async () => {
    const { tensors, onlyInA, onlyInB } = await compared(
      [floats('x', [1]), floats('a', [1])],
      [floats('b', [1]), floats('x', [1]), floats('c', [1])],
    )
    expect(tensors.map(({ name }) => name)).toEqual(['x'])
    expect([onlyInA, onlyInB]).toEqual([['a'], ['b', 'c']])
  })
})

it('totals are over all values', async () => {
  const { sqnrDb, maxAbsError } = await compared(
    [floats('x', [3]), floats('y', [4]), stored('i', 'U8', Uint8Array.of(1))],
    [floats('x', [3.5]), floats('y', [4]), stored('i', 'U8', Uint8Array.of(9))],
  )
  expect([sqnrDb, maxAbsError]).toEqual([expect.closeTo(20, 10), 0.5])
})

it('says which tensor it is at', async () => {
  const seen: unknown[] = []
  const side = checkpointOf(floats('x', [1]), floats('y', [1]))
  await compareCheckpoints(side, side, (...at) => void seen.push(at))
  expect(seen).toEqual([
    [0, 2, 'x'],
    [1, 2, 'y'],
  ])
})

describe('beyondTolerance', () => {
  const comparing = compared(
    [floats('near', [1]), floats('far', [1]), floats('nan', [1]), floats('shape', [1]), floats('a', [1])].concat(
      stored('bytes', 'U8', Uint8Array.of(1)),
    ),
    [
      floats('near', [1.25]),
      floats('far', [2]),
      floats('nan', [Number.NaN]),
      floats('shape', [1, 2]),
      floats('b', [1]),
    ].concat(stored('bytes', 'U8', Uint8Array.of(2))),
  )
  const always = ['nan', 'shape', 'bytes', 'a', 'b']
  it.each([
    [0, ['near', 'far', ...always]],
    [0.2499, ['near', 'far', ...always]],
    [0.25, ['far', ...always]],
    [1, always],
    [1e30, always],
  ])('of %d', async (tolerance, expected) => expect(beyondTolerance(await comparing, tolerance)).toEqual(expected))
})
