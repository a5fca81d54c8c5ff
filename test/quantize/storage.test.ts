import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { fromFloat32, toFloat32 } from '../../src/dtype/convert.ts'
import { checkScale, roundScale, scaleDtypes } from '../../src/quantize/storage.ts'

const stored = (scale: number, dtype: 'F16' | 'BF16' | 'F32'): number =>
  toFloat32(fromFloat32(Float32Array.of(scale), dtype), dtype)[0]

describe.each(['F16', 'BF16', 'F32'] as const)('a scale in %s', dtype => {
  const { smallest, largest } = scaleDtypes[dtype]

  it('is what the dtype stores for it', () => {
    fc.assert(
      fc.property(fc.float({ min: smallest, max: largest, noNaN: true }), scale => {
        expect(roundScale(scale, dtype)).toBe(stored(scale, dtype))
      }),
    )
  })

  it('is the even one of two equally near', () => {
    const { shift } = scaleDtypes[dtype]
    const step = 2 ** (shift - 23)
    const tie = (steps: number) => roundScale(1 + (steps + 0.5) * step, dtype)
    if (shift > 0) expect([tie(0), tie(1)]).toEqual([1, 1 + 2 * step])
  })

  it('is never subnormal: the smallest normal number instead', () => {
    for (const scale of [0, 1e-45, smallest / 2, smallest]) expect(roundScale(Math.fround(scale), dtype)).toBe(smallest)
  })

  it('may be the largest number of the dtype', () => {
    expect(roundScale(largest, dtype)).toBe(largest)
    expect(() => checkScale(largest, dtype, 'w', 3)).not.toThrow()
  })

  it('is refused beyond it, with its row and what would help', () => {
    const refusal = expect.objectContaining({
      code: 'unsupported',
      message: expect.stringMatching(/^w: row 3 .*--bits/),
    })
    for (const scale of [roundScale(Math.fround(largest * 1.002), dtype), Number.POSITIVE_INFINITY, Number.NaN])
      expect(() => checkScale(scale, dtype, 'w', 3)).toThrow(refusal)
  })
})
