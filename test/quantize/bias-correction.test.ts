import { describe, expect, it } from 'vitest'
import type { TensorSource } from '../../src/contracts.ts'
import { toFloat32 } from '../../src/dtype/convert.ts'
import type { WeightDtype } from '../../src/dtype/dtype.ts'
import { changedError, changeOf, meanErrors, rootMeanSquare, shiftedBias } from '../../src/quantize/bias-correction.ts'
import { differenceOf, quadraticForm, randomWeights, tensorOf, uniform } from '../helpers/linears.ts'
import { plainStatistics } from '../helpers/statistics.ts'

const [out, inputs, count] = [5, 12, 40]
const W = randomWeights(out, inputs, 1)
const decoded = W.map(weight => Math.round(weight * 20) / 20)
const delta = Float32Array.from(differenceOf(W, decoded))
const random = uniform(3)
const tokens = Float32Array.from({ length: count * inputs }, () => 0.7 + random())
const { gram, channels } = plainStatistics(tokens, inputs)

/** Errors of the outputs, [count][out]: (Ŵ·x + s) − W·x. */
const outputErrors = (s: ArrayLike<number>): number[][] =>
  Array.from({ length: count }, (_, token) =>
    Array.from({ length: out }, (_, row) => {
      let error = s[row]
      for (let i = 0; i < inputs; i++) error -= delta[row * inputs + i] * tokens[token * inputs + i]
      return error
    }),
  )

const biasOf = (values: readonly number[], dtype: WeightDtype): TensorSource => ({
  ...tensorOf(Float32Array.from(values), values.length, 1, dtype),
  name: 'w.bias',
  shape: [values.length],
})
const biases = [0.3, -0.2, 0.1, 0, -1.5]

describe('the shift of a bias', () => {
  const shift = meanErrors(delta, channels.mean)

  it('takes the mean of each output error to 0', () => {
    const errors = outputErrors(shift)
    for (let row = 0; row < out; row++)
      expect(errors.reduce((sum, error) => sum + error[row], 0) / count).toBeCloseTo(0, 7)
    expect(Math.abs(shift[0])).toBeGreaterThan(1e-3)
  })

  it('is summed row by row, whatever rows come at once', () => {
    const parts = [delta.subarray(0, 2 * inputs), delta.subarray(2 * inputs)].map(part => [
      ...meanErrors(part, channels.mean),
    ])
    expect(Float64Array.from(parts.flat())).toEqual(shift)
  })

  it.each(['F32', 'F16', 'BF16'] as const)('is added before the bias is rounded to %s', dtype => {
    const bias = biasOf(biases, dtype)
    const before = toFloat32(bias.read(), dtype)
    const change = changeOf(bias, Float32Array.from(shift), dtype)
    const half = { F32: 2 ** -24, F16: 2 ** -11, BF16: 2 ** -8 }[dtype]
    for (const [i, moved] of change.entries()) {
      expect(Math.abs(moved - shift[i])).toBeLessThanOrEqual(half * Math.abs(before[i] + shift[i]) + 1e-8)
    }
    expect(rootMeanSquare(change)).toBeCloseTo(Math.hypot(...change) / Math.sqrt(out), 12)
  })

  it.each([shift.map(s => s), shift.map(s => 1.3 * s + 0.01), new Float64Array(out)])(
    'changes the mean squared error of outputs by ‖s‖² − 2·s·(ΔW·E[x]), whatever of it is stored',
    s => {
      const direct = outputErrors(s).reduce((sum, error) => sum + Math.hypot(...error) ** 2, 0) / count
      const found = quadraticForm(delta, Float64Array.from(gram), inputs) + changedError(s, shift)
      expect(found / direct).toBeCloseTo(1, 5)
    },
  )
})

describe('a shifted bias', () => {
  it('can be read in pieces', () => {
    const source = shiftedBias(biasOf(biases, 'BF16'), Float32Array.of(1, 2, 3, 4, 5))
    const whole = source.read()
    expect([source.bytes, source.dtype]).toEqual([20, 'F32'])
    const into = new Uint8Array(8)
    source.read(8, 16, into)
    expect(into).toEqual(whole.slice(8, 16))
    expect(toFloat32(whole, 'F32')[3]).toBe(4)
  })

  it.each([
    [biasOf([1, 60_000], 'F16'), Float32Array.of(0, 9000), 'F16', 'unsupported', /holds 69000, more than F16 can hold/],
    [biasOf([1, Number.NaN], 'F32'), Float32Array.of(0, 1), 'F32', 'bad-input', /value 1 of tensor w\.bias is NaN/],
    [biasOf([Number.POSITIVE_INFINITY], 'BF16'), Float32Array.of(0), 'BF16', 'bad-input', /value 0 .* is Infinity/],
  ] as const)('that cannot be stored is an error: %#', (bias, shift, dtype, code, message) => {
    expect(() => changeOf(bias, shift, dtype)).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    )
  })
})
