import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Dtype, dtypeBits, dtypes } from '../../src/dtype/dtype.ts'
import { QuantizeError } from '../../src/errors.ts'
import { add, maxSize, multiply, product, subtract, tensorBytes, toIndex, toRange, toSize } from '../../src/io/size.ts'

/** The result, or undefined where it was refused with a line that begins with `what`. */
const tried = <T>(run: (what: string) => T): T | undefined => {
  try {
    return run('tensor "x"')
  } catch (error) {
    expect(error).toBeInstanceOf(QuantizeError)
    expect((error as QuantizeError).code).toBe('bad-input')
    expect((error as QuantizeError).message).toMatch(/^tensor "x": /)
    return undefined
  }
}

const exact = (value: bigint): number | undefined => (value < 0n || value > BigInt(maxSize) ? undefined : Number(value))

/** Sizes around every power of two, where a wrong limit or a rounded product would show. */
const size = fc
  .oneof(
    fc.maxSafeNat(),
    fc.tuple(fc.nat(53), fc.integer({ min: -2, max: 2 })).map(([power, step]) => 2 ** power + step),
  )
  .filter(value => Number.isSafeInteger(value) && value >= 0)

describe('exact or refused, as integers of any size say', () => {
  it('sum, difference, product', () => {
    fc.assert(
      fc.property(size, size, (a, b) => {
        expect(tried(what => add(a, b, what))).toBe(exact(BigInt(a) + BigInt(b)))
        expect(tried(what => subtract(a, b, what))).toBe(exact(BigInt(a) - BigInt(b)))
        expect(tried(what => multiply(a, b, what))).toBe(exact(BigInt(a) * BigInt(b)))
      }),
      { numRuns: 3000 },
    )
  })

  it('bytes of a tensor', () => {
    const shape = fc.array(fc.oneof(fc.nat(9), size), { maxLength: 5 })
    fc.assert(
      fc.property(shape, fc.constantFrom(...dtypes), (dimensions, dtype: Dtype) => {
        const got = tried(what => tensorBytes(dimensions, dtype, what))
        const bits = dimensions.reduce((total, n) => total * BigInt(n), 1n) * BigInt(dtypeBits[dtype])
        if (got !== undefined) expect(BigInt(got) * 8n).toBe(bits)
        const representable = bits % 8n === 0n && bits <= BigInt(maxSize)
        const noZero = dimensions.every(n => n > 0)
        if (representable && noZero) expect(got).toBeDefined()
      }),
      { numRuns: 2000 },
    )
  })
})

it.each<[readonly number[], Dtype, number | undefined]>([
  [[], 'F32', 4],
  [[0], 'F32', 0],
  [[3, 5], 'BF16', 30],
  [[2], 'F4', 1],
  [[3], 'F4', undefined],
  [[4], 'F6_E2M3', 3],
  [[2], 'F6_E3M2', undefined],
  [[maxSize], 'U8', maxSize],
  [[maxSize], 'I16', undefined],
  [[2 ** 32, 2 ** 32, 4], 'U8', undefined],
  [[2 ** 27, 2 ** 26], 'U8', undefined],
  [[0, 2 ** 40, 2 ** 40], 'U8', 0],
])('tensorBytes(%j, %s) is %j', (shape, dtype, bytes) => {
  expect(tried(what => tensorBytes(shape, dtype, what))).toBe(bytes)
})

it.each<[number | bigint, number | undefined]>([
  [0, 0],
  [-0, 0],
  [maxSize, maxSize],
  [BigInt(maxSize), maxSize],
  [2 ** 53, undefined],
  [2n ** 53n, undefined],
  [2n ** 64n + 1n, undefined],
  [-1, undefined],
  [-1n, undefined],
  [0.5, undefined],
  [Number.NaN, undefined],
  [Number.POSITIVE_INFINITY, undefined],
  [Number.NEGATIVE_INFINITY, undefined],
])('toSize(%s) is %j', (value, expected) => {
  expect(tried(what => toSize(value, what))).toBe(expected)
})

it('operands are checked too', () => {
  expect(tried(what => add(-1, 2, what))).toBeUndefined()
  expect(tried(what => multiply(-1, -2, what))).toBeUndefined()
  expect(tried(what => multiply(0.5, 2, what))).toBeUndefined()
  expect(tried(what => subtract(2, -1, what))).toBeUndefined()
  expect(tried(what => product([2, -3, -1], what))).toBeUndefined()
})

it('indices and ranges', () => {
  expect(tried(what => toIndex(2, 3, what))).toBe(2)
  expect(tried(what => toIndex(3, 3, what))).toBeUndefined()
  expect(tried(what => toRange(1, 3, 3, what))).toEqual([1, 3])
  expect(tried(what => toRange(3, 3, 3, what))).toEqual([3, 3])
  expect(tried(what => toRange(1, 4, 3, what))).toBeUndefined()
  expect(tried(what => toRange(2, 1, 3, what))).toBeUndefined()
  expect(tried(what => toRange(-1, 1, 3, what))).toBeUndefined()
})
