import type { Group, Statistics } from '../contracts.ts'
import type { Fold } from './fold.ts'

/** What is known of a tap when its factors are chosen. */
export interface TapToScale {
  readonly fold: Fold
  /** With channels. */
  readonly statistics: Statistics
  /** Those behind the tap that are quantized. */
  readonly linears: readonly {
    readonly out: number
    readonly in: number
    readonly group: Group
    /** [out, in] */
    readonly weights: Float32Array
  }[]
  /** Strength of the transform, where it has one (`--alpha`). */
  readonly alpha: number | 'search'
  /**
   * Σ over the linears of tr(ΔW G ΔWᵀ), ΔW the error of the weights, in the unscaled model, when they are rounded to nearest after the
   * columns were multiplied by the factors.
   * @param candidates factors [in]; absent: 1
   * @returns one a candidate
   */
  losses(candidates: readonly (Float32Array | undefined)[]): Promise<readonly number[]>
  /** The same over a sample of the rows. */
  estimates: TapToScale['losses']
}

export interface ChosenScales {
  /** [fold.channels], positive and finite: what the producer is divided by. */
  readonly factors: Float32Array
  /** Of the inputs' magnitudes, and of the weights', by which those are divided. */
  readonly exponent: number
  readonly weightExponent: number
  /** Of `losses`, with them and without, where it was asked. */
  readonly loss: number | null
  readonly before: number | null
}

/** A change of the model's weights that leaves its function as it is, and is stored in them. */
export interface ScaleTransform {
  readonly name: string
  readonly summary: string
  /** Folds that it uses; others are left alone. */
  readonly vias: readonly Fold['via'][]
  /** @returns undefined: as it is */
  fit(tap: TapToScale): Promise<ChosenScales | undefined>
}

/** [width of the tap]: the factor of each channel. */
export const spread = ({ channelOf }: Pick<Fold, 'channelOf'>, factors: Float32Array): Float32Array =>
  Float32Array.from(channelOf, channel => factors[channel])

/** [fold.channels]: a value of the tap's channels, over those that share one. */
export const gathered = (
  { channelOf, channels }: Fold,
  values: Float32Array,
  join: (a: number, b: number) => number,
): Float64Array => {
  const found = new Float64Array(channels).fill(Number.NaN)
  for (const [i, channel] of channelOf.entries())
    found[channel] = Number.isNaN(found[channel]) ? values[i] : join(found[channel], values[i])
  return found
}
