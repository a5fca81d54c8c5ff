/**
 * llama3 scaling of rotary frequencies: config.json has four numbers, GGUF a tensor of factors by which frequencies are divided
 * (conversion/llama.py, generate_extra_tensors).
 */
import { openConfig } from '../model/config.ts'
import { readRope } from '../model/rope.ts'

export interface Llama3Scaling {
  readonly factor: number
  readonly low: number
  readonly high: number
  /** Positions of the model before it was scaled. */
  readonly context: number
}

/** theta^(−2i / headDim), as the model computes them. */
const plainFrequencies = (theta: number, headDim: number): readonly number[] =>
  readRope(openConfig({ rope_theta: theta }, 'rope'), 'llama', headDim, 1).rope.frequencies

/** Of a frequency: 1 for short wavelengths, `factor` for long ones, a blend between. */
const factorOf = (frequency: number, { factor, low, high, context }: Llama3Scaling): number => {
  const turns = (context * frequency) / (2 * Math.PI) // of the whole context
  if (turns > high) return 1
  if (turns < low) return factor
  const smooth = (turns - low) / (high - low)
  return 1 / ((1 - smooth) / factor + smooth)
}

/** [headDim / 2]: the tensor `rope_freqs.weight`. */
export const ropeFactors = (theta: number, headDim: number, scaling: Llama3Scaling): Float32Array =>
  Float32Array.from(plainFrequencies(theta, headDim), frequency => factorOf(frequency, scaling))

const tolerance = 1e-3 // the blends of two writers differ in their last bits of float32; a wrong context by far more

const agree = (found: Float32Array, wanted: Float32Array): boolean =>
  found.length === wanted.length && found.every((value, i) => Math.abs(value / wanted[i] - 1) <= tolerance)

/**
 * The line smooth = slope · frequency − start through two blended factors. A scale common to context, low and high cancels: low is 1, as
 * in every published model.
 */
const fitted = (frequencies: readonly number[], factors: Float32Array, factor: number): Llama3Scaling | undefined => {
  const blended = frequencies.flatMap((frequency, i) => {
    const smooth = (1 / factors[i] - 1 / factor) / (1 - 1 / factor)
    return smooth > 0.02 && smooth < 0.98 ? [{ turns: frequency / (2 * Math.PI), smooth }] : []
  })
  const first = blended.at(0)
  const last = blended.at(-1)
  if (!first || !last || first === last) return undefined
  const slope = (first.smooth - last.smooth) / (first.turns - last.turns)
  const start = slope * first.turns - first.smooth
  return { factor, low: 1, high: Math.round((1 + 1 / start) * 8) / 8, context: Math.round(slope / start) }
}

/** Llama 3.1's, and contexts that its kin were trained on. */
const published = [8192, 4096, 2048, 16_384, 32_768].map(context => ({ low: 1, high: 4, context }))

/** Of which llama3 scaling these are the factors; undefined where they are of none. All 1: none is needed, and `factor` is 1. */
export const llama3ScalingOf = (theta: number, headDim: number, factors: Float32Array): Llama3Scaling | undefined => {
  const factor = factors.reduce((most, value) => Math.max(most, value), 1)
  const frequencies = plainFrequencies(theta, headDim)
  const candidates = [...published.map(known => ({ ...known, factor })), fitted(frequencies, factors, factor)]
  return candidates.find(
    scaling => scaling && scaling.high > scaling.low && agree(factors, ropeFactors(theta, headDim, scaling)),
  )
}
