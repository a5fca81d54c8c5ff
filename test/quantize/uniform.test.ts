import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Bits, Storage } from '../../src/contracts.ts'
import { type Parameters, rangeOf } from '../../src/quantize/grid/coder.ts'
import { affineCoder, uniformGrid } from '../../src/quantize/grid/uniform.ts'
import { scaleDtypes } from '../../src/quantize/storage.ts'
import { f16Storage } from '../helpers/linears.ts'

/** A group's weights from largest to smallest magnitudes that a float16 scale can hold, or below. */
const groups = fc
  .tuple(
    fc.array(fc.float({ min: -1, max: 1, noNaN: true }), { minLength: 1, maxLength: 20 }),
    fc.constantFrom(2 ** -30, 2 ** -12, 0.02, 1, 1000),
    fc.constantFrom('both', 'positive', 'negative'),
  )
  .map(([weights, size, signs]) =>
    Float32Array.from(weights, weight => {
      if (signs === 'both') return weight * size
      return Math.abs(weight) * size * (signs === 'positive' ? 1 : -1)
    }),
  )

const storages = fc
  .tuple(fc.constantFrom('F16', 'BF16', 'F32'), fc.constantFrom(0, 1))
  .map(([scaleDtype, lowest]): Storage => ({ ...f16Storage, scaleDtype, zeroRange: [lowest, 255] }))

describe.each([2, 3, 4, 8] as const)('codes of %i bits', (bits: Bits) => {
  const maxCode = 2 ** bits - 1

  describe.each([true, false])('symmetric %s', symmetric => {
    const grid = uniformGrid(bits, symmetric)
    const parametersOf = (weights: Float32Array, storage: Storage): Parameters =>
      affineCoder(grid, storage, 1).parameters(rangeOf(weights))
    const { encode, decode } = affineCoder(grid, f16Storage, 1)
    const hold = (check: (weights: Float32Array, parameters: Parameters, storage: Storage) => void): void =>
      fc.assert(
        fc.property(groups, storages, (weights, storage) => check(weights, parametersOf(weights, storage), storage)),
      )

    it('decode to within half a step of the weight, and what rounding the scale takes of the range', () => {
      hold((weights, parameters, { scaleDtype }) => {
        const scaleRounding = 2 ** (scaleDtypes[scaleDtype].shift - 24)
        const most = parameters.scale * (0.5 + maxCode * scaleRounding * 1.01 + 1e-4)
        for (const weight of weights) {
          const decoded = decode(encode(weight, parameters), parameters)
          expect(Math.abs(weight - decoded)).toBeLessThanOrEqual(most)
        }
      })
    })

    it('decode to the nearest value that there is', () => {
      hold((weights, parameters) => {
        for (const weight of weights) {
          const error = (code: number) => Math.abs(weight - (code - parameters.offset) * parameters.scale)
          const chosen = error(encode(weight, parameters))
          const least = Math.min(...Array.from({ length: maxCode + 1 }, (_, code) => error(code)))
          expect(chosen).toBeLessThanOrEqual(least + 1e-4 * parameters.scale)
        }
      })
    })

    it('hold zero exactly', () => {
      hold((_, parameters) => {
        expect(decode(encode(0, parameters), parameters)).toBe(0)
      })
    })

    it('have a zero point that is a code and that the format stores', () => {
      hold((_, { offset }, { zeroRange }) => {
        expect(offset).toBeGreaterThanOrEqual(zeroRange![0])
        expect(offset).toBeLessThanOrEqual(maxCode)
        if (symmetric) expect(offset).toBe(2 ** (bits - 1))
      })
    })

    it('use scale 1 where all weights are zero', () => {
      const { scale } = parametersOf(new Float32Array(4), f16Storage)
      expect(scale).toBe(1)
    })
  })
})

describe('parameters of a range', () => {
  it.each([
    ['symmetric: twice the largest magnitude over all steps', true, -3, 7.5, 0, { scale: 1, offset: 8 }],
    ['symmetric: the negative side counts alike', true, -7.5, 3, 0, { scale: 1, offset: 8 }],
    ['asymmetric: the whole range over all steps', false, -5, 10, 0, { scale: 1, offset: 5 }],
    ['asymmetric, nothing negative', false, 0, 30, 0, { scale: 2, offset: 0 }],
    ['asymmetric, nothing positive', false, -30, 0, 0, { scale: 2, offset: 15 }],
    ['asymmetric, the zero point at a tie goes to the even one', false, -2.5, 12.5, 0, { scale: 1, offset: 2 }],
    ['no zero point 0: fewer steps for the positive side', false, 0, 28, 1, { scale: 2, offset: 1 }],
  ])('%s', (_, symmetric, low, high, lowest, parameters) => {
    const storage: Storage = { ...f16Storage, zeroRange: [lowest, 255] }
    expect(affineCoder(uniformGrid(4, symmetric), storage, 1).parameters({ low, high })).toEqual(parameters)
  })
})
