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
import { type FloatDtype, toFloat32 } from '../dtype/convert.ts'
import { packFactor } from '../engine/kernel/factor.ts'
import { type Matrix, matrixOf, matrixOfValues } from '../engine/kernel/panels.ts'
import type { Kernels } from '../engine/kernel/pool.ts'
import { dampedGram, deadChannels, factorize } from '../engine/ort/cholesky.ts'
import { driftCorrection } from '../engine/ort/drift.ts'
import { diagonalOf } from '../engine/ort/gram.ts'
import { plusProduct, square } from '../engine/ort/products.ts'
import type { Engine } from '../engine/ort/session.ts'
import { QuantizeError } from '../errors.ts'
import { allFinite } from '../finite.ts'
import { isRounded } from '../gguf/types.ts'
import type { Recipe } from '../recipe.ts'
import { actOrder } from './act-order.ts'
import { searchClip } from './clip-search.ts'
import { gridNamed } from './grid/index.ts'
import { quantizeBlocks } from './quantize-blocks.ts'
import { type LinearJob, type LinearRounding, quantizeLinear } from './quantize-linear.ts'
import { createRefiner } from './refine.ts'

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
}

export const nearest: LinearRounding = { name: 'nearest' }

/** A job without its weights. */
export const jobParts = (
  { grid, bits, symmetric, group }: LinearScheme,
  clip: ClipName,
  { rounding, weighting }: Choice,
  storage: Storage,
  shared: number | undefined,
): Omit<LinearJob, keyof Matrix> => ({
  grid: gridNamed(grid, bits, symmetric),
  ...{ clip, group, storage, rounding, shared, weighting },
})

const jobOf = (
  source: TensorSource,
  scheme: LinearScheme,
  clip: ClipName,
  choice: Choice,
  storage: Storage,
  shared: number | undefined,
): LinearJob => ({
  ...matrixOf(source, scheme.out, scheme.in),
  ...jobParts(scheme, clip, choice, storage, shared),
})

export const roundJob = async (
  kernels: Kernels,
  job: LinearJob,
  scheme: Pick<LinearScheme, 'name' | 'type'>,
  fallback: string | null,
): Promise<Rounded> => {
  const { name, type } = scheme
  const { quantized, loss } =
    type && isRounded(type) ? await quantizeBlocks(kernels, type, job) : await quantizeLinear(kernels, job)
  if (loss === undefined || Number.isFinite(loss))
    return { quantized, method: job.rounding.name === 'gptq' ? 'gptq' : 'rtn', fallback }
  return roundJob(kernels, { ...job, rounding: nearest }, scheme, `${name}: the sweep diverged`)
}

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
    const choice = { rounding: nearest, weighting: weightingOf(scheme.name) }
    return roundJob(kernels, jobOf(source, scheme, clip, choice, storage, shared), scheme, null)
  },
  release: () => {},
})

const finiteWeights = (source: TensorSource): Float32Array | undefined => {
  const weights = toFloat32(source.read(), source.dtype as FloatDtype)
  return allFinite(weights) ? weights : undefined
}

/**
 * Gives a job the scales of AWQ's clip search, where its clip is that.
 * @param unclipped names of linears whose range stays as it is
 */
const clipper =
  (engine: Engine, kernels: Kernels, gram: Float32Array, unclipped: ReadonlySet<string>) =>
  async (job: LinearJob, linear: string, read: () => Float32Array | undefined): Promise<LinearJob> => {
    const weights = job.clip === 'awq' && !unclipped.has(linear) ? read() : undefined
    if (!weights) return job
    const known = { ...job, ...matrixOfValues(job.name, weights, job.out, job.in) }
    return { ...known, given: await searchClip(engine, kernels, known, gram) }
  }

/**
 * Rounding to nearest where the tap is known: its squares weigh, and clip `awq` searches the cut of each group.
 * @param unclipped names of linears whose range stays as it is
 * @param fallback why another method was not used; null: this was asked for
 */
export const nearestRounding = (
  engine: Engine,
  kernels: Kernels,
  { gram }: Statistics,
  { clip }: Recipe,
  unclipped: ReadonlySet<string> = new Set(),
  fallback: string | null = null,
): StageRounding => {
  const weighting = diagonalOf(gram, Math.sqrt(gram.length))
  const clipped = clipper(engine, kernels, gram, unclipped)
  return {
    damp: null,
    deadChannels: deadChannels(gram, weighting.length),
    async round(source, scheme, storage, shared) {
      const job = jobOf(source, scheme, clip, { rounding: nearest, weighting }, storage, shared)
      return roundJob(kernels, await clipped(job, scheme.name, () => finiteWeights(source)), scheme, fallback)
    },
    release: () => {},
  }
}

/** With fewer tokens than this for each input, error feedback fits noise and is worse than plain rounding on other text (docs/methods.md). */
const leastTokensPerInput = 2

/**
 * Error feedback for the linears behind a tap. Falls back to rounding to nearest, and says so, when too few tokens were seen or the Gram
 * matrix does not factor at any damping.
 * @param statistics with a drift where the recipe corrects it
 * @param tap for messages
 * @param unclipped as nearestRounding
 * @throws QuantizeError bad-input when an activation was not finite
 */
export const feedbackRounding = async (
  engine: Engine,
  kernels: Kernels,
  statistics: Statistics,
  recipe: Recipe,
  tap: string,
  unclipped: ReadonlySet<string> = new Set(),
): Promise<StageRounding> => {
  const { gram, count, drift } = statistics
  const n = Math.sqrt(gram.length)
  const diagonal = diagonalOf(gram, n)
  const broken = diagonal.findIndex(value => !Number.isFinite(value))
  if (broken >= 0)
    throw new QuantizeError(
      'bad-input',
      `${tap}: channel ${broken} of its activations is not finite; the source's weights overflow on the calibration text`,
    )
  const { clip, damp, correct, refine } = recipe
  const fallBack = (reason: string): StageRounding =>
    nearestRounding(engine, kernels, statistics, recipe, unclipped, reason)
  if (count < n * leastTokensPerInput)
    return fallBack(`${count} tokens for ${n} inputs; error feedback needs ${n * leastTokensPerInput}`)
  const order = recipe.actOrder === 'none' ? undefined : actOrder(diagonal)
  const factored = await factorize(engine, gram, { damp, order })
  if (!factored) return fallBack('the Gram matrix of its inputs does not factor')
  const { reversedU } = factored
  const correction = drift && square(await driftCorrection(engine, drift, reversedU, order, correct))
  const factor = packFactor(kernels, reversedU)
  const refiner =
    refine === 'cd' && !factored.zero
      ? await createRefiner(engine, kernels, dampedGram(gram, factored.damp))
      : undefined
  const clipped = clipper(engine, kernels, gram, unclipped)
  const rounding: LinearRounding = { name: 'gptq', factor, actOrder: recipe.actOrder, order }
  return {
    damp: factored.damp,
    deadChannels: deadChannels(gram, n),
    async round(source, scheme, storage, shared) {
      const job = jobOf(source, scheme, clip, { rounding, weighting: diagonal }, storage, shared)
      if (!correction && !refiner)
        return roundJob(kernels, await clipped(job, scheme.name, () => finiteWeights(source)), scheme, null)
      const { out } = scheme
      const weights = finiteWeights(source)
      if (!weights) return roundJob(kernels, job, scheme, null) // which says where
      const wanted = correction
        ? await plusProduct(engine, weights, { data: weights, rows: out, columns: n }, correction)
        : weights
      const moved = { ...job, ...matrixOfValues(source.name, wanted, out, n) }
      const target = await clipped(moved, scheme.name, () => wanted)
      const rounded = await roundJob(kernels, target, scheme, null)
      if (!refiner || rounded.method !== 'gptq') return rounded
      return {
        ...rounded,
        quantized: await refiner.refine(target, wanted, rounded.quantized as CodedLinear, scheme.type),
      }
    },
    release() {
      factor.release()
      refiner?.release()
    },
  }
}
