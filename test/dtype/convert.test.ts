import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { fromFloat32, isFloat, toFloat32 } from '../../src/dtype/convert.ts'
import { type Dtype, dtypeBits, dtypes } from '../../src/dtype/dtype.ts'
import { QuantizeError } from '../../src/errors.ts'

const patterns = Uint16Array.from({ length: 65536 }, (_, i) => i)
const patternBytes = new Uint8Array(patterns.buffer)
const words = (bytes: Uint8Array) => new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2)
const encode = (value: number, dtype: 'F16' | 'BF16') => words(fromFloat32(Float32Array.of(value), dtype))[0]
const decode = (pattern: number, dtype: 'F16' | 'BF16') =>
  toFloat32(new Uint8Array(Uint16Array.of(pattern).buffer), dtype)[0]

/** The value of a pattern by the formats' definition, in exact arithmetic (a double holds each). */
const byDefinition = (pattern: number, mantissaBits: number, bias: number, maxExponent: number): number => {
  const sign = pattern & 0x8000 ? -1 : 1
  const exponent = (pattern & 0x7fff) >> mantissaBits
  const fraction = (pattern & ((1 << mantissaBits) - 1)) / 2 ** mantissaBits
  if (exponent === maxExponent) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return exponent === 0 ? sign * fraction * 2 ** (1 - bias) : sign * (1 + fraction) * 2 ** (exponent - bias)
}
const formats = { F16: [10, 15, 31], BF16: [7, 127, 255] } as const

describe.each(['F16', 'BF16'] as const)('%s', dtype => {
  it('decodes all 65536 patterns by the definition', () => {
    const values = toFloat32(patternBytes, dtype)
    const [mantissaBits, bias, maxExponent] = formats[dtype]
    const wrong = [...patterns].filter(p => !Object.is(values[p], byDefinition(p, mantissaBits, bias, maxExponent)))
    expect(wrong).toEqual([])
  })

  it('all 65536 patterns come back as they were, NaN payloads too', () => {
    expect(fromFloat32(toFloat32(patternBytes, dtype), dtype)).toEqual(patternBytes)
  })

  it('rounds every midpoint of two neighbours to the even one, and its neighbours in float32 to the nearer', () => {
    const bits = new Uint32Array(1)
    const float = new Float32Array(bits.buffer)
    const limit = dtype === 'F16' ? 0x7bff : 0x7f7f // the largest finite one; its upper neighbour is infinity
    const wrong: number[] = []
    for (let low = 0; low <= limit; low++) {
      const above = low === limit ? 2 * decode(low, dtype) - decode(low - 1, dtype) : decode(low + 1, dtype)
      float[0] = (decode(low, dtype) + above) / 2
      const middle = bits[0]
      const got = [-1, 0, 1].map(step => {
        bits[0] = middle + step
        return [encode(float[0], dtype), encode(-float[0], dtype) & 0x7fff]
      })
      const even = low % 2 === 0 ? low : low + 1
      if (`${got}` !== `${[low, low, even, even, low + 1, low + 1]}`) wrong.push(low)
    }
    expect(wrong).toEqual([])
  })

  it('rounds to the nearest representable value', () => {
    const finite = [...patterns].filter(p => Number.isFinite(decode(p, dtype)))
    fc.assert(
      fc.property(fc.float({ noNaN: true, noDefaultInfinity: true }), fc.constantFrom(...finite), (value, other) => {
        const got = decode(encode(value, dtype), dtype)
        if (Number.isFinite(got))
          expect(Math.abs(got - value)).toBeLessThanOrEqual(Math.abs(decode(other, dtype) - value))
        expect(Object.is(Math.sign(got) || got, Math.sign(value) || value) || got === 0).toBe(true)
        expect(Object.is(got, 0)).toBe(got === 0 && !Object.is(Math.sign(1 / value), -1))
      }),
      { numRuns: 2000 },
    )
  })

  it('NaN stays NaN, whatever its payload; no payload becomes infinity', () => {
    const nans = Uint32Array.of(0x7f800001, 0x7fc00000, 0xff800001, 0x7fffffff, 0xffffffff, 0x7f801fff, 0x7f80ffff)
    const out = words(fromFloat32(new Float32Array(nans.buffer), dtype))
    expect([...out].filter(p => !Number.isNaN(decode(p, dtype)))).toEqual([])
    expect([...out].map(p => p >> 15)).toEqual([0, 0, 1, 0, 1, 0, 0])
  })
})

describe('goldens', () => {
  it.each<['F16' | 'BF16', number, number]>([
    ['F16', 1, 0x3c00],
    ['F16', 65504, 0x7bff],
    ['F16', 65519.996, 0x7bff],
    ['F16', 65520, 0x7c00],
    ['F16', 1e30, 0x7c00],
    ['F16', -1e30, 0xfc00],
    ['F16', 2 ** -14, 0x0400],
    ['F16', 2 ** -24, 0x0001],
    ['F16', 2 ** -25, 0x0000],
    ['F16', 2 ** -25 * (1 + 2 ** -23), 0x0001],
    ['F16', -(2 ** -26), 0x8000],
    ['F16', 2 ** -149, 0x0000],
    ['F16', 1 + 2 ** -11, 0x3c00],
    ['F16', 1 + 3 * 2 ** -11, 0x3c02],
    ['F16', 0.1, 0x2e66],
    ['BF16', 1, 0x3f80],
    ['BF16', 1 + 2 ** -8, 0x3f80],
    ['BF16', 1 + 3 * 2 ** -8, 0x3f82],
    ['BF16', 3.4028234663852886e38, 0x7f80],
    ['BF16', 2 ** -133, 0x0001],
    ['BF16', 2 ** -134, 0x0000],
    ['BF16', 3 * 2 ** -134, 0x0002],
    ['BF16', -0, 0x8000],
  ])('%s of %d', (dtype, value, pattern) => {
    expect(encode(value, dtype)).toBe(pattern)
  })
})

describe('toFloat32', () => {
  it('F32 keeps its bits, F64 is rounded to nearest even', () => {
    const bits = Uint32Array.of(0x7f800001, 0x80000000, 0x3f800001, 1)
    const out = toFloat32(new Uint8Array(bits.buffer), 'F32')
    expect([...new Uint32Array(out.buffer)]).toEqual([...bits])
    const doubles = Float64Array.of(1 + 2 ** -24, 1 + 3 * 2 ** -24, 1e300, -0, 0.1)
    const expected = Float32Array.of(1, 1 + 2 ** -22, Number.POSITIVE_INFINITY, -0, Math.fround(0.1))
    expect(toFloat32(new Uint8Array(doubles.buffer), 'F64')).toEqual(expected)
  })

  it.each(['F16', 'BF16', 'F32', 'F64'] as const)('%s at any address, from and into shared memory', dtype => {
    const values = Float32Array.of(1, -2, 0.5, 100)
    const stored = dtype === 'F64' ? new Uint8Array(Float64Array.from(values).buffer) : fromFloat32(values, dtype)
    for (const Buffer of [ArrayBuffer, SharedArrayBuffer])
      for (let offset = 0; offset < 9; offset++) {
        const bytes = new Uint8Array(new Buffer(stored.length + 16), offset, stored.length)
        bytes.set(stored)
        const into = new Float32Array(new Buffer(32), 8, 4)
        expect(toFloat32(bytes, dtype, into)).toBe(into)
        expect([...into]).toEqual([...values])
      }
  })

  it('never shares memory with what it was given', () => {
    const bytes = new Uint8Array(8)
    toFloat32(bytes, 'F32').fill(1)
    expect([...bytes]).toEqual(Array(8).fill(0))
    const values = new Float32Array(2)
    fromFloat32(values, 'F32').fill(1)
    expect([...values]).toEqual([0, 0])
  })

  it('takes only whole elements and a place of their number', () => {
    expect(() => toFloat32(new Uint8Array(3), 'F16')).toThrow(RangeError)
    expect(() => toFloat32(new Uint8Array(4), 'F16', new Float32Array(1))).toThrow(RangeError)
    expect(toFloat32(new Uint8Array(0), 'F16')).toHaveLength(0)
  })

  it.each(dtypes.filter(dtype => !['F16', 'BF16', 'F32', 'F64'].includes(dtype)))('%s is refused', (dtype: Dtype) => {
    expect(isFloat(dtype)).toBe(false)
    expect(() => toFloat32(new Uint8Array(dtypeBits[dtype]), dtype)).toThrow(QuantizeError)
  })
})
