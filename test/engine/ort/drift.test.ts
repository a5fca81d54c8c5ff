import { afterAll, describe, expect, it } from 'vitest'
import { calibratedPass } from '../../../src/calibrate/pass.ts'
import type { Linear, Statistics } from '../../../src/contracts.ts'
import { chunkRowsOf, embed } from '../../../src/engine/ort/activations.ts'
import { factorize } from '../../../src/engine/ort/cholesky.ts'
import { createDrift, driftCorrection } from '../../../src/engine/ort/drift.ts'
import { createBlockPass } from '../../../src/engine/ort/forward.ts'
import { createEngine } from '../../../src/engine/ort/session.ts'
import { createSpill } from '../../../src/engine/ort/spill.ts'
import { nodeFiles } from '../../../src/io/files.ts'
import { actOrder } from '../../../src/quantize/act-order.ts'
import { openFixture } from '../../helpers/fixture-model.ts'
import { inverseOf, uniform } from '../../helpers/linears.ts'
import { temporaryFolder } from '../../helpers/temporary-folder.ts'

const engine = await createEngine(2)
afterAll(() => engine.release())

const n = 20
const tokens = 300

/** x [n, tokens], correlated, and x̂: x with noise, shrunk. */
const inputs = () => {
  const random = uniform(11)
  const x = Float32Array.from({ length: n * tokens }, random)
  for (let i = tokens; i < x.length; i++) x[i] = 0.6 * x[i - tokens] + 0.8 * x[i]
  return { x, drifted: x.map(value => 0.9 * value + 0.2 * random()) }
}

/** Mean of a·bᵀ over tokens, [n, n]. */
const mean = (a: Float32Array, b: Float32Array): Float64Array =>
  Float64Array.from({ length: n * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n]
    let sum = 0
    for (let t = 0; t < tokens; t++) sum += a[i * tokens + t] * b[j * tokens + t]
    return sum / tokens
  })

const columns = (values: Float32Array, from: number, to: number): Float32Array =>
  Float32Array.from({ length: n * (to - from) }, (_, at) => {
    const width = to - from
    return values[Math.floor(at / width) * tokens + from + (at % width)]
  })

describe('drift', () => {
  it('is the mean of (x − x̂) x̂ᵀ, over chunks', async () => {
    const { x, drifted } = inputs()
    const drift = createDrift(engine, n)
    for (const [from, to] of [
      [0, 128],
      [128, 200],
      [200, 300],
    ])
      await drift.add(columns(x, from, to), columns(drifted, from, to), to - from)
    const found = drift.finish()
    const expected = mean(
      x.map((value, i) => value - drifted[i]),
      drifted,
    )
    for (const [at, value] of expected.entries()) expect(found[at]).toBeCloseTo(value, 6)
  })

  it.each(['natural', 'by activity'])('is made up for by least squares, order %s', async orderName => {
    const { x, drifted } = inputs()
    const gram = Float32Array.from(mean(drifted, drifted))
    const order =
      orderName === 'natural' ? undefined : actOrder(Float32Array.from({ length: n }, (_, i) => gram[i * n + i]))
    const { reversedU } = (await factorize(engine, gram, { damp: 0, order }))!
    const difference = mean(
      x.map((value, i) => value - drifted[i]),
      drifted,
    )
    const correction = await driftCorrection(engine, Float32Array.from(difference), reversedU, order, 1)
    const inverse = inverseOf(Float64Array.from(gram), n)
    for (let row = 0; row < n; row++)
      for (let column = 0; column < n; column++) {
        let expected = 0
        for (let k = 0; k < n; k++) expected += difference[row * n + k] * inverse[k * n + column]
        expect(correction[row * n + column]).toBeCloseTo(expected, 4)
      }
    const half = await driftCorrection(engine, Float32Array.from(difference), reversedU, order, 0.5)
    for (const [at, value] of half.entries()) expect(value).toBeCloseTo(correction[at] / 2, 5)
  })

  it('is nothing where inputs are the same', async () => {
    const { x } = inputs()
    const drift = createDrift(engine, n)
    await drift.add(x, x, tokens)
    expect(drift.finish().every(value => value === 0)).toBe(true)
  })
})

describe('a calibrated pass', () => {
  const fixture = openFixture('tiny-llama')
  const { model, read } = fixture
  const random = uniform(21)
  const windows = Array.from({ length: 24 }, () =>
    Int32Array.from({ length: 96 }, () => Math.floor((random() * 0.5 + 0.5) * model.vocabulary)),
  )
  const changed = new Map<string, Float32Array>()
  const change = (linear: Linear): Float32Array => {
    const noise = uniform(linear.name.length + 3)
    if (!changed.has(linear.name))
      changed.set(
        linear.name,
        read(linear.weight).map(value => value * (1 + 0.3 * noise())),
      )
    return changed.get(linear.name)!
  }

  const run = async (spilled: boolean): Promise<ReadonlyMap<string, Statistics>> => {
    const seen = new Map<string, Statistics>()
    const spill = spilled ? createSpill(`${temporaryFolder()}/spill`, nodeFiles) : undefined
    const visitor = {
      known: () => undefined,
      visit: async ({ stage, statistics }: { stage: { linears: readonly Linear[] }; statistics: Statistics }) => {
        seen.set(stage.linears[0].name, statistics)
        return new Map(stage.linears.map(linear => [linear.name, () => change(linear)]))
      },
    }
    await calibratedPass(engine, model, windows, read, visitor, { drift: true, spill, onChunk() {} })
    spill?.close()
    return seen
  }

  it('gives the drift of every tap, in memory and from a file', async () => {
    const seen = await run(false)
    const taps = (weight: (linear: Linear) => Float32Array) => async () => {
      const activations = embed(model, read, windows, chunkRowsOf(model))
      const found = new Map<string, Float32Array[]>()
      for (const block of model.blocks) {
        const pass = createBlockPass(engine, block, activations, read)
        for (const stage of block.stages) {
          const parts: Float32Array[] = []
          for await (const tap of pass.advance(weight)) parts.push(tap!.transposed.slice())
          found.set(stage.linears[0].name, parts)
        }
        for await (const _ of pass.advance(weight));
      }
      return found
    }
    const originals = await taps(linear => read(linear.weight))()
    const drifted = await taps(change)()
    for (const block of model.blocks)
      for (const stage of block.stages) {
        const { name } = stage.linears[0]
        const expected = createDrift(engine, stage.width)
        for (const [i, part] of originals.get(name)!.entries())
          await expected.add(part, drifted.get(name)![i], part.length / stage.width)
        expect(seen.get(name)!.drift).toEqual(expected.finish())
      }
    expect(seen.get(model.blocks[0].stages[0].linears[0].name)!.drift!.every(value => value === 0)).toBe(true)
    const last = seen.get(model.blocks.at(-1)!.stages.at(-1)!.linears[0].name)!.drift!
    expect(last.some(value => Math.abs(value) > 1e-3)).toBe(true)
    const fromFile = await run(true)
    for (const [name, { drift }] of fromFile) expect(drift).toEqual(seen.get(name)!.drift)
  })
})
