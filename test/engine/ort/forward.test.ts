import fs from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Linear, Stage } from '../../../src/contracts.ts'
import { type Activations, embed } from '../../../src/engine/ort/activations.ts'
import { createBlockPass, runBlock, runFinal } from '../../../src/engine/ort/forward.ts'
import { computeLogits } from '../../../src/engine/ort/head.ts'
import { hiddenName } from '../../../src/engine/ort/held.ts'
import { createEngine, type Engine } from '../../../src/engine/ort/session.ts'
import { createSpill } from '../../../src/engine/ort/spill.ts'
import { nodeFiles } from '../../../src/io/files.ts'
import {
  expected,
  type FixtureModel,
  maxDifference,
  openFixture,
  sameBits,
  untransposed,
  variants,
} from '../../helpers/fixture-model.ts'
import { plainBlocks } from '../../helpers/plain-forward.ts'
import { temporaryFolder } from '../../helpers/temporary-folder.ts'

const folder = temporaryFolder()

let engine: Engine
beforeAll(async () => {
  engine = await createEngine(2)
})
afterAll(() => engine.release())

const joined = (parts: readonly Float32Array[]): Float32Array => {
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}

const hiddenOf = ({ chunks }: Activations): Float32Array => joined(chunks.map(({ hidden }) => hidden))

interface Seen {
  readonly stage: Stage
  /** [rows, width] of all chunks. */
  readonly tap: Float32Array
}

/** Block after block through its segments; the taps of each block in the order in which they were given. */
const runTaps = async (
  on: Engine,
  { model, read, weight }: FixtureModel,
  activations: Activations,
  replaced: (linear: Linear) => Float32Array = weight,
): Promise<readonly (readonly Seen[])[]> => {
  const seen: Seen[][] = []
  for (const block of model.blocks) {
    const pass = createBlockPass(on, block, activations, read)
    const taps: Seen[] = []
    for (const stage of block.stages) {
      const parts: Float32Array[] = []
      for await (const tap of pass.advance(replaced)) parts.push(untransposed(tap!.transposed, tap!.rows))
      taps.push({ stage, tap: joined(parts) })
    }
    for await (const tap of pass.advance(replaced)) expect(tap).toBeUndefined()
    seen.push(taps)
  }
  return seen
}

/** The same, and then the final ops. */
const runSegments = async (
  on: Engine,
  fixture: FixtureModel,
  activations: Activations,
  replaced?: (linear: Linear) => Float32Array,
): Promise<readonly (readonly Seen[])[]> => {
  const seen = await runTaps(on, fixture, activations, replaced)
  await runFinal(on, fixture.model, activations, fixture.read)
  return seen
}

const runBlocks = async (on: Engine, { model, read, weight }: FixtureModel, activations: Activations) => {
  for (const block of model.blocks) await runBlock(on, block, activations, weight, read)
  await runFinal(on, model, activations, read)
}

describe.each(variants)('%s', variant => {
  const fixture = openFixture(`transformers/${variant}`)
  const { sequences, logits } = expected(variant)
  afterAll(() => fixture.checkpoint.close())

  it('gives the logits of transformers, a block in one graph', async () => {
    const activations = embed(fixture.model, fixture.read, sequences)
    await runBlocks(engine, fixture, activations)
    const ours = await computeLogits(engine, { head: fixture.head, hidden: hiddenOf(activations) })
    expect(maxDifference(ours, logits)).toBeLessThan(1e-4)
  })

  it('gives the same logits in segments, and each tap is what its linears read', async () => {
    const activations = embed(fixture.model, fixture.read, sequences)
    const seen = await runSegments(engine, fixture, activations)
    const ours = await computeLogits(engine, { head: fixture.head, hidden: hiddenOf(activations) })
    expect(maxDifference(ours, logits)).toBeLessThan(1e-4)

    const tensor = (name: string) => fixture.read({ tensor: name })
    const plain = sequences.map(ids => plainBlocks(fixture.config, tensor, ids))
    for (const [b, block] of fixture.model.blocks.entries()) {
      expect(seen[b].map(({ stage }) => stage)).toEqual(block.stages)
      for (const [s, { tap }] of seen[b].entries()) {
        const wanted = plain.flatMap(blocks => blocks[b].taps[s].flat())
        expect(maxDifference(tap, wanted), `block ${b}, stage ${s}`).toBeLessThan(1e-4)
      }
    }
  })

  it('gives the same bits whatever the chunk', async () => {
    const results = []
    for (const chunkRows of [1, 48]) {
      const activations = embed(fixture.model, fixture.read, sequences, chunkRows)
      expect(activations.chunks.length).toBe(chunkRows === 1 ? 2 : 1)
      const taps = await runSegments(engine, fixture, activations)
      results.push([hiddenOf(activations), ...taps.flat().map(({ tap }) => tap)])
    }
    expect(sameBits(results[0], results[1])).toBe(true)
  })
})

describe('a pass with replaced weights', () => {
  it('computes each later tap from the replacements, and each tap before its own linears are asked for', async () => {
    const fixture = openFixture('transformers/llama-gqa-head-dim')
    const { sequences } = expected('llama-gqa-head-dim')
    const changed = new Map<string, Float32Array>()
    const asked: string[] = []
    const replace = (linear: Linear): Float32Array => {
      asked.push(linear.name)
      const data = changed.get(linear.name) ?? fixture.weight(linear).map((value, i) => value * (i % 3 ? 0.9 : 1.2))
      changed.set(linear.name, data)
      return data
    }
    const activations = embed(fixture.model, fixture.read, sequences)
    const seen = await runSegments(engine, fixture, activations, replace)
    expect(asked).toEqual(fixture.model.blocks.flatMap(({ stages }) => stages.flatMap(s => s.linears.map(l => l.name))))
    const tensor = (name: string) => changed.get(name.replace(/\.weight$/, '')) ?? fixture.read({ tensor: name })
    const plain = sequences.map(ids => plainBlocks(fixture.config, tensor, ids))
    for (const [b, taps] of seen.entries())
      for (const [s, { tap }] of taps.entries())
        expect(
          maxDifference(
            tap,
            plain.flatMap(blocks => blocks[b].taps[s].flat()),
          ),
        ).toBeLessThan(1e-4)
    fixture.checkpoint.close()
  })
})

describe('on a model wide enough for two threads', () => {
  const fixture = openFixture('tiny-llama')
  const sequences = Array.from({ length: 5 }, (_, s) =>
    Int32Array.from({ length: 64 }, (_, i) => (i * 37 + s * 11) % 1000),
  )
  afterAll(() => fixture.checkpoint.close())

  it('gives the same bits on one thread and on two, in segments and in one graph', async () => {
    const single = await createEngine(1)
    const results = []
    for (const on of [single, engine]) {
      const inSegments = embed(fixture.model, fixture.read, sequences)
      const taps = await runSegments(on, fixture, inSegments)
      const inOne = embed(fixture.model, fixture.read, sequences)
      await runBlocks(on, fixture, inOne)
      results.push([hiddenOf(inSegments), hiddenOf(inOne), ...taps.flat().map(({ tap }) => tap)])
    }
    expect(sameBits(results[0], results[1])).toBe(true)
    await single.release()
  })

  it('gives the same bits in chunks of 1, 2 and 5 sequences', async () => {
    const results = []
    for (const chunkRows of [64, 128, 320]) {
      const activations = embed(fixture.model, fixture.read, sequences, chunkRows)
      const taps = await runSegments(engine, fixture, activations)
      results.push([hiddenOf(activations), ...taps.flat().map(({ tap }) => tap)])
    }
    expect(sameBits(results[1], results[0])).toBe(true)
    expect(sameBits(results[2], results[0])).toBe(true)
  })

  it('gives the same bits with its values in a file, which the second block does not make longer', async () => {
    const inMemory = embed(fixture.model, fixture.read, sequences, 128)
    const expectedTaps = await runTaps(engine, fixture, inMemory)
    const path = join(folder, 'spill')
    const spill = createSpill(path, nodeFiles)
    const inFile = embed(fixture.model, fixture.read, sequences, 128, spill)
    const taps: Seen[][] = []
    const sizes: number[] = []
    for (const block of fixture.model.blocks) {
      const [seen] = await runTaps(engine, { ...fixture, model: { ...fixture.model, blocks: [block] } }, inFile)
      taps.push([...seen])
      sizes.push(fs.statSync(path).size)
    }
    expect(taps.flat().map(({ stage }) => stage.tap)).toEqual(expectedTaps.flat().map(({ stage }) => stage.tap))
    const tapsOf = (all: readonly (readonly Seen[])[]) => all.flat().map(({ tap }) => tap)
    expect(sameBits(tapsOf(taps), tapsOf(expectedTaps))).toBe(true)
    const hidden = inFile.chunks.map(({ rows }, i) => {
      expect(inFile.chunks[i].hidden).toHaveLength(0)
      const values = new Float32Array(rows * inFile.width)
      spill.read(i, hiddenName, values)
      return values
    })
    expect(sameBits([joined(hidden)], [hiddenOf(inMemory)])).toBe(true)
    expect(new Set(sizes).size).toBe(1)
    spill.close()
  })

  it('goes chunk by chunk, and refuses to go on after the end', async () => {
    const activations = embed(fixture.model, fixture.read, sequences, 128)
    const pass = createBlockPass(engine, fixture.model.blocks[0], activations, fixture.read)
    const rows: (number | undefined)[] = []
    for (let segment = 0; segment < 5; segment++)
      for await (const tap of pass.advance(fixture.weight)) rows.push(tap?.rows)
    const each = activations.chunks.map(chunk => chunk.rows)
    expect(pass.chunks).toBe(3)
    expect(rows).toEqual([...Array.from({ length: 4 }, () => each).flat(), undefined, undefined, undefined])
    await expect(pass.advance(fixture.weight).next()).rejects.toThrow('is over')
  })

  it('takes no new memory for a second block', async () => {
    const activations = embed(fixture.model, fixture.read, sequences, 64)
    let taken = 0
    const { pool } = activations
    const free = new Set<Float32Array>()
    const counting = {
      take(length: number) {
        const buffer = pool.take(length)
        if (!free.delete(buffer)) taken++
        return buffer
      },
      give(buffer: Float32Array) {
        free.add(buffer)
        pool.give(buffer)
      },
    }
    const afterBlock: number[] = []
    for (const block of fixture.model.blocks) {
      const pass = createBlockPass(engine, block, { ...activations, pool: counting }, fixture.read)
      for (let segment = 0; segment <= block.stages.length; segment++)
        for await (const _ of pass.advance(fixture.weight));
      afterBlock.push(taken)
    }
    expect(new Set(afterBlock).size).toBe(1)
  })
})
