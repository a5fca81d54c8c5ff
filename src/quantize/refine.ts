/** Coordinate descent on tr(ΔW·H·ΔWᵀ) from codes and scales that exist: scales in turn, then codes in turn, again and again. */
import type { CodedLinear } from '../contracts.ts'
import { dequantize } from '../dequantize.ts'
import { packFactor } from '../engine/kernel/factor.ts'
import { matrixOfValues } from '../engine/kernel/panels.ts'
import type { Kernels } from '../engine/kernel/pool.ts'
import { prepareDescent } from '../engine/ort/descent.ts'
import { plusProduct, square } from '../engine/ort/products.ts'
import type { Engine } from '../engine/ort/session.ts'
import type { GgmlTypeName } from '../gguf/types.ts'
import { middleOf } from './grid/index.ts'
import { type LinearJob, quantizeLinear } from './quantize-linear.ts'
import { refineScales } from './refine-scales.ts'

/** Rounds of scales and codes. The first takes off most: on a random llama 12 %, then 5 %, then 2 % of the error of GPTQ's sweep. */
const rounds = 3

export interface Refiner {
  /**
   * @param job as it was quantized
   * @param wanted the weights of the job, [out, in]
   * @param type of a linear in ggml's blocks
   */
  refine(job: LinearJob, wanted: Float32Array, linear: CodedLinear, type?: GgmlTypeName): Promise<CodedLinear>
  /** Gives shared memory back. */
  release(): void
}

const minus = (a: Float32Array, b: Float32Array): Float32Array => a.map((value, i) => value - b[i])

/** For the linears behind one tap. @param hessian H, [n, n], symmetric and positive definite */
export const createRefiner = async (engine: Engine, kernels: Kernels, hessian: Float32Array): Promise<Refiner> => {
  const { reversedU, later } = await prepareDescent(engine, hessian)
  const factor = packFactor(kernels, reversedU)
  const codesOf = async (job: LinearJob, wanted: Float32Array, linear: CodedLinear): Promise<CodedLinear> => {
    const left = { data: minus(wanted, dequantize(linear)), rows: job.out, columns: job.in }
    const target = await plusProduct(engine, wanted, left, square(later))
    const { quantized } = await quantizeLinear(kernels, {
      ...job,
      ...matrixOfValues(job.name, target, job.out, job.in),
      rounding: { name: 'gptq', factor, actOrder: 'static' },
      given: linear,
    })
    return { ...linear, ...quantized }
  }
  return {
    async refine(job, wanted, linear, type) {
      const { group, storage, grid } = job
      const tied = storage.decode === 'biased' && grid.kind === 'uniform' && grid.symmetric
      const middle = tied && !linear.superBlocks ? middleOf(grid) : undefined
      let refined = linear
      for (let round = 0; round < rounds; round++) {
        const delta = minus(dequantize(refined), wanted)
        refined = await refineScales(engine, refined, { group, storage, type, middle, hessian, delta })
        refined = await codesOf(job, wanted, refined)
      }
      return refined
    },
    release: factor.release,
  }
}
