import { afterAll, describe, expect, it } from 'vitest'
import { calibratedPass } from '../../src/calibrate/pass.ts'
import { sampleCalibration } from '../../src/calibrate/sample.ts'
import type { Linear } from '../../src/contracts.ts'
import { createKernels } from '../../src/engine/kernel/pool.ts'
import { outputError } from '../../src/engine/ort/output-error.ts'
import { createEngine } from '../../src/engine/ort/session.ts'
import { nodeFiles } from '../../src/io/files.ts'
import { dequantize } from '../../src/quantize/dequantize.ts'
import { feedbackRounding, plainRounding, type StageRounding } from '../../src/quantize/stage-rounding.ts'
import { resolveRecipe } from '../../src/recipe.ts'
import { openFixture } from '../helpers/fixture-model.ts'

const engine = await createEngine(2)
const kernels = await createKernels(2)
afterAll(async () => {
  await engine.release()
  await kernels.close()
})

const { checkpoint, model, read } = openFixture('tiny-llama')

describe('on every linear of a real model', () => {
  it.each([
    [2, true, 'minmax'],
    [3, false, 'minmax'],
    [4, true, 'mse'],
    [8, true, 'minmax'],
  ] as const)(
    'gptq changes the outputs less than rtn: %i bits, symmetric %s, clip %s',
    async (bits, symmetric, clip) => {
      const recipe = resolveRecipe({ bits, symmetric, clip, group: 128, samples: 48, seqLen: 64 })
      const { windows } = sampleCalibration(checkpoint.folder, model, recipe.calibration!, nodeFiles)
      const storage = { decode: 'affine', scaleDtype: 'F16', zeroRange: [0, 255] } as const
      let compared = 0
      await calibratedPass(
        engine,
        model,
        windows,
        read,
        async ({ stage, statistics }) => {
          const fed = await feedbackRounding(engine, kernels, statistics, recipe, stage.tap)
          const plain = plainRounding(kernels, recipe)
          const round = async (rounding: StageRounding, linear: Linear) => {
            const { name, out, in: inputs, weight } = linear
            const groups = inputs / 128
            const scheme = { name, out, in: inputs, bits, symmetric, group: 128, groups, actOrder: recipe.actOrder }
            const source = checkpoint.tensors.get(weight.tensor)!
            const { quantized, method } = await rounding.round(source, scheme, storage)
            const decoded = dequantize(quantized)
            const original = read(weight)
            const delta = original.map((value, i) => value - decoded[i])
            return { method, decoded, ...(await outputError(engine, delta, original, statistics.gram)) }
          }
          const replaced = new Map<string, Float32Array>()
          for (const linear of stage.linears) {
            const [gptq, rtn] = [await round(fed, linear), await round(plain, linear)]
            expect([gptq.method, rtn.method]).toEqual(['gptq', 'rtn'])
            expect(gptq.error, linear.name).toBeLessThan(rtn.error)
            replaced.set(linear.name, gptq.decoded)
            compared++
          }
          fed.release()
          return replaced
        },
        { onChunk() {} },
      )
      expect(compared).toBe(28)
    },
  )
})
