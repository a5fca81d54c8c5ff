/** A scaled model computes what the model computes: for each architecture and each input that can be scaled. */
import { afterAll, describe, expect, it } from 'vitest'
import { readWeight } from '../../src/checkpoint/read-weight.ts'
import type { Checkpoint, Model } from '../../src/contracts.ts'
import { embed, type ReadWeight } from '../../src/engine/ort/activations.ts'
import { runBlock, runFinal } from '../../src/engine/ort/forward.ts'
import { createEngine } from '../../src/engine/ort/session.ts'
import { applyScales } from '../../src/transform/apply.ts'
import { channelsBehind, type Fold, foldOf } from '../../src/transform/fold.ts'
import { scaledCheckpoint } from '../../src/transform/scaled-checkpoint.ts'
import { expected, maxDifference, openFixture, variants } from '../helpers/fixture-model.ts'
import { uniform } from '../helpers/linears.ts'

const engine = await createEngine(2)
afterAll(() => engine.release())

const finalHidden = async (model: Model, checkpoint: Checkpoint, sequences: readonly Int32Array[]) => {
  const read: ReadWeight = view => readWeight(checkpoint, view).data
  const activations = embed(model, read, sequences)
  for (const block of model.blocks) await runBlock(engine, block, activations, linear => read(linear.weight), read)
  await runFinal(engine, model, activations, read)
  return Float32Array.from(activations.chunks.flatMap(({ hidden }) => [...hidden]))
}

const folds = ({ blocks }: Model): { fold: Fold; linears: Model['blocks'][number]['stages'][number]['linears'] }[] =>
  blocks.flatMap(block =>
    block.stages.flatMap(stage => {
      const fold = foldOf(block, stage, () => true)
      return typeof fold === 'string' ? [] : [{ fold, linears: stage.linears }]
    }),
  )

describe('scales', () => {
  it.each(variants)('leave %s the same function', async variant => {
    const { model, checkpoint } = openFixture(`transformers/${variant}`)
    const { sequences } = expected(variant)
    const before = await finalHidden(model, checkpoint, sequences)
    const scaled = scaledCheckpoint(checkpoint)
    const random = uniform(7)
    const found = folds(model)
    expect(found.length).toBeGreaterThanOrEqual(2 * model.blocks.length)
    for (const { fold, linears } of found) {
      const factors = Float32Array.from({ length: fold.channels }, () => 2 ** (3 * random()))
      const columns = applyScales(
        scaled,
        fold,
        factors,
        linears.map(({ weight }) => weight.tensor),
        () => 'F32',
      )
      expect(columns).toHaveLength(linears[0].in)
    }
    const changed = [...scaled.tensors].filter(([name, tensor]) => tensor !== checkpoint.tensors.get(name))
    expect(changed.length).toBeGreaterThan(found.length)
    const after = await finalHidden(model, scaled, sequences)
    expect(maxDifference(before, after)).toBeLessThan(1e-4)
  })

  it('take what a norm is really divided by, when its weight is rounded', async () => {
    const { model, checkpoint } = openFixture('tiny-llama')
    const scaled = scaledCheckpoint(checkpoint)
    const [{ fold, linears }] = folds(model)
    const random = uniform(3)
    const factors = Float32Array.from({ length: fold.channels }, () => 2 ** random())
    const columns = applyScales(
      scaled,
      fold,
      factors,
      linears.map(({ weight }) => weight.tensor),
      () => 'BF16',
    )
    const norm = readWeight(checkpoint, { tensor: fold.divided[0] }).data
    const stored = readWeight(scaled, { tensor: fold.divided[0] }).data
    expect(columns).not.toEqual(factors)
    for (const [i, value] of stored.entries()) {
      expect(Math.fround(value)).toBe(value)
      expect(new Uint32Array(Float32Array.of(value).buffer)[0] & 0xffff).toBe(0) // bfloat16
      expect(Math.abs((value * columns[i]) / norm[i] - 1)).toBeLessThan(2 ** -22)
      expect(Math.abs(columns[i] / factors[i] - 1)).toBeLessThan(2 ** -8)
    }
    const { tensor } = linears[0].weight
    const weights = readWeight(checkpoint, { tensor }).data
    const multiplied = readWeight(scaled, { tensor }).data
    expect(multiplied).toEqual(weights.map((weight, i) => weight * columns[i % columns.length]))
  })

  it('leave a channel whose norm is 0 alone', () => {
    const { model, checkpoint } = openFixture('tiny-llama')
    const scaled = scaledCheckpoint(checkpoint)
    const [{ fold }] = folds(model)
    const norm = readWeight(checkpoint, { tensor: fold.divided[0] }).data.slice()
    norm[5] = 0
    scaled.replace(fold.divided[0], norm)
    const columns = applyScales(scaled, fold, new Float32Array(fold.channels).fill(3), [], () => 'BF16')
    expect(columns[5]).toBe(1)
    expect(readWeight(scaled, { tensor: fold.divided[0] }).data[5]).toBe(0)
  })
})

describe('where a change of an input can go', () => {
  it('query heads share the channels of their head of values', () => {
    expect([...channelsBehind(8, [4, 2])]).toEqual([0, 1, 0, 1, 2, 3, 2, 3])
    expect([...channelsBehind(4)]).toEqual([0, 1, 2, 3])
  })

  it('not into a linear that stays unquantized, nor through a function that is not linear', () => {
    const { blocks } = openFixture('transformers/llama-mha').model
    const [block] = blocks
    const down = block.stages.at(-1)!
    expect(foldOf(block, down, () => false)).toContain('up_proj stays unquantized')
    expect(foldOf(block, down, () => true)).toMatchObject({ via: 'linear', producer: `${block.name}.mlp.up_proj` })
    const opt = openFixture('transformers/opt-no-bias-gelu').model.blocks[0]
    expect(foldOf(opt, opt.stages.at(-1)!, () => true)).toContain('does not pass through channel by channel')
  })
})
