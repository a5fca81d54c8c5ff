/**
 * What a runtime with integer products computes, in true int32 arithmetic, against the graph that eval runs on decoded values:
 *   S_Y (q_Y − Z_Y) = S_W (q_W − Z_W) · S_X (q_X − Z_X) + S_b (q_b − Z_b),   S_b = S_Y = S_W S_X, Z_b = Z_Y = 0, q_Y and q_b int32
 * (Jacob et al., arXiv 1712.05877). W [out, in], X [T, in], Y [T, out].
 */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { ActivationScheme, Block, CodedLinear, Linear } from '../../../src/contracts.ts'
import { dequantize } from '../../../src/dequantize.ts'
import { type Activations, createPool } from '../../../src/engine/ort/activations.ts'
import { runBlock } from '../../../src/engine/ort/forward.ts'
import { createEngine, type Engine } from '../../../src/engine/ort/session.ts'
import { clips } from '../../../src/quantize/clip/index.ts'
import { gridNamed } from '../../../src/quantize/grid/index.ts'
import { clamp, roundHalfEven } from '../../../src/quantize/numeric.ts'
import { quantizeReference } from '../../../src/quantize/reference.ts'
import { openFixture } from '../../helpers/fixture-model.ts'
import { uniform } from '../../helpers/linears.ts'

const f = Math.fround

let engine: Engine
beforeAll(async () => {
  engine = await createEngine(1)
})
afterAll(() => engine.release())

const tinyLlama = openFixture('tiny-llama')
afterAll(() => tinyLlama.checkpoint.close())

/** A linear of the fixture that has as many outputs as inputs. */
const size = 128
const W = tinyLlama.read({ tensor: 'model.layers.1.self_attn.q_proj.weight' })

const quantizedWeight = (symmetric: boolean, group: 'tensor' | 'channel'): CodedLinear => {
  const storage = { decode: 'affine', scaleDtype: 'F32', zeroRange: [0, 255] } as const
  const job = { grid: gridNamed('int', 8, symmetric), clip: clips.minmax, storage, group }
  return quantizeReference(W, size, size, job).quantized
}

interface Quantized {
  readonly codes: Int32Array
  readonly scale: number
  readonly zero: number
}

/** Codes −128 … 127 of values that share a scale. */
const quantizedInput = (x: Float32Array, symmetric: boolean): Quantized => {
  const [low, high] = [Math.min(0, ...x), Math.max(0, ...x)]
  const span = symmetric ? f(Math.max(-low, high) / 127.5) : f(f(high - low) / 255)
  const scale = Math.max(span, 2 ** -23)
  const zero = symmetric ? 0 : clamp(roundHalfEven(f(-128 - f(low / scale))), -128, 127)
  return { codes: Int32Array.from(x, v => clamp(roundHalfEven(f(f(v / scale) + zero)), -128, 127)), scale, zero }
}

/** Σ (q_W − Z_W)(q_X − Z_X) as kernels do it: four sums, each in int32. */
const accumulate = (w: Uint8Array, zW: number, x: Int32Array, zX: number): number => {
  const sums = new Int32Array(3)
  for (let k = 0; k < x.length; k++) {
    sums[0] += Math.imul(w[k], x[k])
    sums[1] += w[k]
    sums[2] += x[k]
  }
  return (sums[0] - Math.imul(zX, sums[1]) - Math.imul(zW, sums[2]) + Math.imul(x.length, Math.imul(zW, zX))) | 0
}

/** The graph of a block that is this linear. */
const byGraph = async (
  weight: Float32Array,
  bias: Float32Array,
  x: Float32Array,
  seqLen: number,
  activations: ActivationScheme,
): Promise<Float32Array> => {
  const linear: Linear = {
    ...{ name: 'm', weight: { tensor: 'm.weight' }, bias: { tensor: 'm.bias' }, out: size, in: size, activations },
  }
  const block: Block = {
    ...{ name: 'block', input: 'x', output: 'y', ops: [{ op: 'linear', x: 'x', y: 'y', linear: 'm' }] },
    stages: [{ tap: 'x', width: size, linears: [linear], from: { name: '', via: 'none' } }],
  }
  const rows = x.length / size
  const chunk = { sequences: rows / seqLen, rows, hidden: x.slice() }
  const held: Activations = { seqLen, width: size, chunks: [chunk], pool: createPool() }
  await runBlock(
    engine,
    block,
    held,
    () => weight,
    () => bias,
  )
  return chunk.hidden
}

/** Values of any size, more of them above 0 than below, and a bias as large as the products. */
const inputs = fc
  .record({
    sequences: fc.integer({ min: 1, max: 2 }),
    seqLen: fc.integer({ min: 1, max: 3 }),
    seed: fc.integer({ min: 1, max: 2 ** 30 }),
    exponent: fc.integer({ min: -6, max: 12 }),
  })
  .map(({ sequences, seqLen, seed, exponent }) => {
    const random = uniform(seed)
    const values = (length: number) =>
      Float32Array.from({ length }, () => (random() + 0.5 * random() ** 2) * 2 ** exponent)
    return { seqLen, x: values(sequences * seqLen * size), bias: values(size) }
  })

const cases = [true, false].flatMap(symmetric =>
  (['token', 'tensor'] as const).map(granularity => ({ symmetric, granularity })),
)

describe.each(cases)('a linear in integers, symmetric: $symmetric, by $granularity', ({ symmetric, granularity }) => {
  it('is the graph of decoded values, to float32 rounding', () => {
    const weight = quantizedWeight(symmetric, granularity === 'tensor' ? 'tensor' : 'channel')
    const decoded = dequantize(weight)
    const scheme: ActivationScheme = { grid: 'int8', symmetric, granularity, dynamic: true }
    return fc.assert(
      fc.asyncProperty(inputs, async ({ seqLen, x, bias }) => {
        const actual = await byGraph(decoded, bias, x, seqLen, scheme)
        const shared = granularity === 'token' ? 1 : seqLen
        for (let first = 0; first < x.length / size; first += shared) {
          const { codes, scale, zero } = quantizedInput(x.subarray(first * size, (first + shared) * size), symmetric)
          for (let row = 0; row < shared; row++)
            for (let out = 0; out < size; out++) {
              const q = codes.subarray(row * size, (row + 1) * size)
              const unit = weight.scales[out] * scale
              const biasCode = Math.round(bias[out] / unit)
              expect(Math.abs(biasCode)).toBeLessThan(2 ** 31)
              const product = accumulate(
                weight.codes.subarray(out * size, (out + 1) * size),
                weight.zeros[out],
                q,
                zero,
              )
              const sum = (product + biasCode) | 0
              const magnitude = q.reduce(
                (total, code, k) => total + Math.abs((code - zero) * scale * decoded[out * size + k]),
                Math.abs(bias[out]),
              )
              // the bias rounded to its unit; products and sums of float32
              const tolerance = unit / 2 + (size + 4) * 2 ** -24 * magnitude
              expect(Math.abs(actual[(first + row) * size + out] - unit * sum)).toBeLessThanOrEqual(tolerance)
            }
        }
      }),
      { numRuns: 15 },
    )
  })
})
