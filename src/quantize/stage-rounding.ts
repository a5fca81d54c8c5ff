/** How the linears of one stage are rounded: all that they share is prepared once, from what their tap saw. */
import type {
  BlockLinear,
  ClipName,
  CodedLinear,
  LinearScheme,
  Statistics,
  Storage,
  TensorSource,
} from '../contracts.ts'
import { packFactor } from '../engine/kernel/factor.ts'
import { matrixOf } from '../engine/kernel/panels.ts'
import type { Kernels } from '../engine/kernel/pool.ts'
import { deadChannels, factorize } from '../engine/ort/cholesky.ts'
import { diagonalOf } from '../engine/ort/gram.ts'
import type { Engine } from '../engine/ort/session.ts'
import { QuantizeError } from '../errors.ts'
import { isRounded } from '../gguf/types.ts'
import type { Recipe } from '../recipe.ts'
import { actOrder } from './act-order.ts'
import { gridNamed } from './grid/index.ts'
import { quantizeBlocks } from './quantize-blocks.ts'
import { type LinearRounding, quantizeLinear } from './quantize-linear.ts'

export interface Rounded {
  readonly quantized: CodedLinear | BlockLinear
  /** `repack`: the codes are those of the source. */
  readonly method: 'rtn' | 'gptq' | 'repack'
  /** Why the method asked for was not used; null: it was. */
  readonly fallback: string | null
}

export interface StageRounding {
  /** Damping used, and channels of the tap that were zero in every token; null without statistics. */
  readonly damp: number | null
  readonly deadChannels: number | null
  /** @param shared largest weight of all linears under whose common scale it stands (Storage.second `global`) */
  round(source: TensorSource, scheme: LinearScheme, storage: Storage, shared?: number): Promise<Rounded>
  /** Gives shared memory back. */
  release(): void
}

interface Choice {
  readonly rounding: LinearRounding
  readonly weighting?: Float32Array
  readonly fallback: string | null
}

const roundWith = async (
  kernels: Kernels,
  clip: ClipName,
  { rounding, weighting, fallback }: Choice,
  source: TensorSource,
  scheme: LinearScheme,
  storage: Storage,
  shared: number | undefined,
): Promise<Rounded> => {
  const { name, out, in: inputs, type, grid, bits, symmetric, group } = scheme
  const matrix = matrixOf(source, out, inputs)
  const { quantized, loss } =
    type && isRounded(type)
      ? await quantizeBlocks(kernels, { ...matrix, type, rounding, importances: weighting })
      : await quantizeLinear(kernels, {
          ...matrix,
          grid: gridNamed(grid, bits, symmetric),
          shared,
          clip,
          group,
          storage,
          rounding,
          weighting,
        })
  if (loss === undefined || Number.isFinite(loss))
    return { quantized, method: rounding.name === 'gptq' ? 'gptq' : 'rtn', fallback }
  const diverged: Choice = { rounding: nearest, weighting, fallback: `${name}: the sweep diverged` }
  return roundWith(kernels, clip, diverged, source, scheme, storage, shared)
}

const nearest: LinearRounding = { name: 'nearest' }

/**
 * Rounding to nearest.
 * @param weightingOf [in] of a linear, by its name: what a squared error of each column counts; undefined where all count alike
 */
export const plainRounding = (
  kernels: Kernels,
  { clip }: Recipe,
  weightingOf: (linear: string) => Float32Array | undefined = () => undefined,
): StageRounding => ({
  damp: null,
  deadChannels: null,
  round: (source, scheme, storage, shared) => {
    const choice: Choice = { rounding: nearest, weighting: weightingOf(scheme.name), fallback: null }
    return roundWith(kernels, clip, choice, source, scheme, storage, shared)
  },
  release: () => {},
})

/** With fewer tokens than this for each input, error feedback fits noise and is worse than plain rounding on other text (docs/methods.md). */
const leastTokensPerInput = 2

/**
 * Error feedback for the linears behind a tap. Falls back to rounding to nearest, and says so, when too few tokens were seen or the Gram
 * matrix does not factor at any damping.
 * @param tap for messages
 * @throws QuantizeError bad-input when an activation was not finite
 */
export const feedbackRounding = async (
  engine: Engine,
  kernels: Kernels,
  { gram, count }: Statistics,
  recipe: Recipe,
  tap: string,
): Promise<StageRounding> => {
  const n = Math.sqrt(gram.length)
  const diagonal = diagonalOf(gram, n)
  const broken = diagonal.findIndex(value => !Number.isFinite(value))
  if (broken >= 0)
    throw new QuantizeError(
      'bad-input',
      `${tap}: channel ${broken} of its activations is not finite; the source's weights overflow on the calibration text`,
    )
  const { clip, damp } = recipe
  const dead = deadChannels(gram, n)
  const fallBack = (reason: string): StageRounding => ({
    damp: null,
    deadChannels: dead,
    round: (source, scheme, storage, shared) =>
      roundWith(
        kernels,
        clip,
        { rounding: nearest, weighting: diagonal, fallback: reason },
        source,
        scheme,
        storage,
        shared,
      ),
    release: () => {},
  })
  if (count < n * leastTokensPerInput)
    return fallBack(`${count} tokens for ${n} inputs; error feedback needs ${n * leastTokensPerInput}`)
  const order = recipe.actOrder === 'none' ? undefined : actOrder(diagonal)
  const factored = await factorize(engine, gram, { damp, order })
  if (!factored) return fallBack('the Gram matrix of its inputs does not factor')
  const factor = packFactor(kernels, factored.reversedU)
  const rounding: LinearRounding = { name: 'gptq', factor, actOrder: recipe.actOrder, order }
  return {
    damp: factored.damp,
    deadChannels: dead,
    round: (source, scheme, storage, shared) =>
      roundWith(kernels, clip, { rounding, weighting: diagonal, fallback: null }, source, scheme, storage, shared),
    release: factor.release,
  }
}
