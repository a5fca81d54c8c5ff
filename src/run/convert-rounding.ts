import type { CodedLinear } from '../contracts.ts'
import type { DecodedCheckpoint } from '../decoded-checkpoint.ts'
import { measureRows } from '../engine/kernel/measure.ts'
import { matrixOf } from '../engine/kernel/panels.ts'
import type { Kernels } from '../engine/kernel/pool.ts'
import { QuantizeError } from '../errors.ts'
import { decodedBlocks } from '../gguf/coded.ts'
import type { Plan } from '../plan.ts'
import { plainRounding, type StageRounding } from '../quantize/stage-rounding.ts'
import { repack, repackNear } from '../repack.ts'
import { weightError } from '../report/measure.ts'

/**
 * Gives the codes that the source has, where the format holds them exactly.
 * `round` throws QuantizeError unsupported where it does not, with the error that rounding would add, unless the recipe allows it.
 */
export const convertRounding = (
  kernels: Kernels,
  { recipe, format }: Plan,
  { unpack, schemes, format: from }: DecodedCheckpoint,
): StageRounding => {
  const plain = plainRounding(kernels, recipe)
  return {
    ...plain,
    async round(source, scheme, storage, shared) {
      const stored = unpack(scheme.name)
      const whole = stored.out === scheme.out && stored.in === scheme.in
      const isBlocks = stored.decode === 'blocks'
      if (isBlocks && stored.type === scheme.type) return { quantized: stored, method: 'repack', fallback: null }
      const asItIs = format.facts.dense || (format.facts.anyStorage && whole && stored.decode !== 'dense')
      // a format of values only asks what they are: weights that have no codes go there, too
      if (asItIs)
        return {
          quantized: isBlocks ? decodedBlocks(stored) : (stored as CodedLinear),
          method: 'repack',
          fallback: null,
        }
      const sameGrid = schemes.get(scheme.name)!.grid === scheme.grid
      const kept = sameGrid ? repack(stored, scheme, storage) : undefined
      if (kept) return { quantized: kept, method: 'repack', fallback: null }
      const near = sameGrid ? repackNear(stored, scheme, storage) : undefined
      const rounded = near
        ? ({ quantized: near, method: 'repack', fallback: null } as const)
        : await plain.round(source, scheme, storage, shared)
      if (recipe.lossy)
        return { ...rounded, fallback: `format ${format.name} does not hold the values of ${from.name} exactly` }
      const { out, in: inputs } = scheme
      const sums = await measureRows(kernels, matrixOf(source, out, inputs), rounded.quantized)
      const { sqnrDb, maxAbsError } = weightError(out * inputs, sums)
      throw new QuantizeError(
        'unsupported',
        `${scheme.name}: format ${format.name} does not hold its values exactly; rounding them again adds an error of ${maxAbsError.toPrecision(3)} at most (SQNR ${sqnrDb === null ? 'infinite' : `${sqnrDb.toFixed(1)} dB`}); --lossy accepts that`,
        { lasting: true }, // nothing to go on with
      )
    },
  }
}
