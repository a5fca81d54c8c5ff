import { afterAll, describe, expect, it } from 'vitest'
import { calibratedPass, type Visitor } from '../../src/calibrate/pass.ts'
import { sampleCalibration } from '../../src/calibrate/sample.ts'
import type { Group, Linear } from '../../src/contracts.ts'
import { dequantize } from '../../src/dequantize.ts'
import { createKernels } from '../../src/engine/kernel/pool.ts'
import { outputError } from '../../src/engine/ort/output-error.ts'
import { createEngine } from '../../src/engine/ort/session.ts'
import { nodeFiles } from '../../src/io/files.ts'
import { granularity } from '../../src/quantize/granularity.ts'
import { feedbackRounding, plainRounding, type StageRounding } from '../../src/quantize/stage-rounding.ts'
import { type Recipe, resolveRecipe } from '../../src/recipe.ts'
import { type FixtureModel, openFixture } from '../helpers/fixture-model.ts'
import { uniform } from '../helpers/linears.ts'

const engine = await createEngine(2)
const kernels = await createKernels(2)
afterAll(async () => {
  await engine.release()
  await kernels.close()
})

const storage = { decode: 'affine', scaleDtype: 'F16', zeroRange: [0, 255] } as const

/** Quantizes a model stage by stage, each linear by both methods on the same Gram matrix; the gptq weights stay. Returns how many. */
const compare = async (fixture: FixtureModel, windows: readonly Int32Array[], recipe: Recipe): Promise<number> => {
  const { checkpoint, model, read } = fixture
  const { bits, symmetric, actOrder } = recipe
  const group = recipe.group as Group
  let compared = 0
  const visit: Visitor['visit'] = async ({ stage, statistics }) => {
    const fed = await feedbackRounding(engine, kernels, statistics, recipe, stage.tap)
    const plain = plainRounding(kernels, recipe)
    const round = async (rounding: StageRounding, { name, out, in: inputs, weight }: Linear) => {
      const { groups } = granularity(group, inputs)
      const scheme = {
        ...({ name, role: 'linear', dtype: 'F32', grid: 'int', out, in: inputs } as const),
        ...{ bits, symmetric, group, groups, actOrder },
      }
      const { quantized, method } = await rounding.round(checkpoint.tensors.get(weight.tensor)!, scheme, storage)
      const decoded = dequantize(quantized)
      const original = read(weight)
      const delta = original.map((value, i) => value - decoded[i])
      return { method, decoded, ...(await outputError(engine, delta, original, statistics.gram)) }
    }
    const replaced = new Map<string, () => Float32Array>()
    for (const linear of stage.linears) {
      const [gptq, rtn] = [await round(fed, linear), await round(plain, linear)]
      expect([gptq.method, rtn.method]).toEqual(['gptq', 'rtn'])
      expect(gptq.error, linear.name).toBeLessThan(rtn.error)
      replaced.set(linear.name, () => gptq.decoded)
      compared++
    }
    fed.release()
    return replaced
  }
  await calibratedPass(engine, model, windows, read, { known: () => undefined, visit }, { onChunk() {} })
  return compared
}

describe('gptq changes the outputs of every linear less than rtn', () => {
  const llama = openFixture('tiny-llama')

  it.each([
    [2, true, 'minmax'],
    [3, false, 'minmax'],
    [4, true, 'mse'],
    [8, true, 'minmax'],
  ] as const)('of a trained llama: %i bits, symmetric %s, clip %s', async (bits, symmetric, clip) => {
    const recipe = resolveRecipe({ bits, symmetric, clip, group: 128, samples: 48, seqLen: 64 })
    const { folder } = llama.checkpoint
    const { windows } = await sampleCalibration({ folder }, llama.model, recipe.calibration!, nodeFiles)
    expect(await compare(llama, windows, recipe)).toBe(28)
  })

  it.each(['opt', 'opt-no-bias-gelu'])('of %s', async variant => {
    const fixture = openFixture(`transformers/${variant}`)
    const random = uniform(5)
    const { vocabulary, blocks } = fixture.model
    const windows = Array.from({ length: 40 }, () =>
      Int32Array.from({ length: 16 }, () => Math.floor(((random() + 1) / 2) * vocabulary)),
    )
    const linears = blocks.flatMap(({ stages }) => stages.flatMap(stage => stage.linears))
    expect(await compare(fixture, windows, resolveRecipe({ bits: 3, group: 'channel' }))).toBe(linears.length)
  })
})
