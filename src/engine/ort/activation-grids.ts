/**
 * The grids of activations as nodes: how a value in units of its scale is rounded, and which scale a group of values has. ONNX casts to E4M3
 * only; E2M1 and powers of two are made of float32 arithmetic that is exact but for the rounding meant.
 */
import type { ActivationScheme } from '../../contracts.ts'
import type { NodeBuilder } from './node-builder.ts'
import { float8 } from './onnx.ts'

/** Smallest scale, where all values are 0: float32's epsilon, as compressed-tensors has it. */
export const leastScale = 2 ** -23

/** Largest magnitudes of FP8 E4M3 and FP4 E2M1 (OCP). */
const largest = { e4m3: 448, e2m1: 6 } as const

/** To nearest E4M3, ties to even; what lies beyond the largest is the largest. */
const toE4m3 = (b: NodeBuilder, x: string): string => {
  const clipped = b.apply('Clip', [x, b.number(-largest.e4m3), b.number(largest.e4m3)])
  return b.apply('Cast', [b.apply('Cast', [clipped], { to: float8 })], { to: 1 })
}

/** To nearest E2M1, ties to the even code: its values are whole steps of 0.5 below 2, 1 below 4, 2 to 6, where even steps have even codes. */
const toE2m1 = (b: NodeBuilder, x: string): string => {
  const clipped = b.apply('Clip', [x, b.number(-largest.e2m1), b.number(largest.e2m1)])
  const magnitude = b.apply('Abs', [clipped])
  const below = (limit: number): string => b.apply('Less', [magnitude, b.number(limit)])
  const upper = b.apply('Where', [below(4), b.number(1), b.number(2)])
  const step = b.apply('Where', [below(2), b.number(0.5), upper])
  return b.apply('Mul', [b.apply('Round', [b.apply('Div', [clipped, step])]), step])
}

/**
 * 2^floor(log2 x), x > 0, exactly: q = (2^23 + 1)·x, then q − (1 − 2^-24)·q (Rump, Ogita and Oishi, Accurate floating-point summation II,
 * algorithm 3.5). NaN from 2^104 on, where q is infinite.
 */
const powerBelow = (b: NodeBuilder, x: string): string => {
  const q = b.apply('Mul', [x, b.number(2 ** 23 + 1)])
  return b.apply('Sub', [q, b.apply('Mul', [q, b.number(1 - 2 ** -24)])])
}

/** Magnitudes below it count as it, so that no power of two is subnormal. */
const leastMagnitude = 2 ** -100

/** OCP MX, as compressed-tensors has it (mxfp_utils.py, round_to_power_2): floor(log2 absmax), one more from a mantissa of 1.75 on, less the exponent of the grid's largest. */
const powerScale = (b: NodeBuilder, absmax: string, reach: number): string => {
  const magnitude = b.apply('Max', [absmax, b.number(leastMagnitude)])
  const power = powerBelow(b, magnitude)
  const beyond = b.apply('GreaterOrEqual', [magnitude, b.apply('Mul', [power, b.number(1.75)])])
  return b.apply('Mul', [power, b.apply('Where', [beyond, b.number(2 / reach), b.number(1 / reach)])])
}

/** An E4M3 scale that underflows to 0 (compressed-tensors, helpers.py, _get_dtype_eps): the group's values become 0. */
const underflown = 0.125

const smallestNormal = 2 ** -126

/**
 * NVFP4: E4M3 scales under one divisor of all, 448 · 6 / the largest magnitude of a sequence unless it is stored.
 * @param absmax [B, G, 1] of the groups of each sequence
 */
const nestedScale = (b: NodeBuilder, absmax: string, stored: number | undefined): string => {
  const all = b.apply('Max', [b.apply('ReduceMax', [absmax, b.whole(1)]), b.number(smallestNormal)])
  const divisor = stored === undefined ? b.apply('Div', [b.number(largest.e4m3 * largest.e2m1), all]) : b.number(stored)
  const scale = toE4m3(b, b.apply('Mul', [divisor, b.apply('Div', [absmax, b.number(largest.e2m1)])]))
  const filled = b.apply('Where', [b.apply('Equal', [scale, b.number(0)]), b.number(underflown), scale])
  return b.apply('Div', [filled, divisor])
}

/** What the largest magnitude of symmetric integers becomes. */
const halfRange = ({ grid, reach }: ActivationScheme): number => reach ?? (grid === 'int4' ? 7.5 : 127.5)

/** The scale of each group of values from its largest magnitude [B, G, 1]. */
export const scaleOf = (b: NodeBuilder, absmax: string, scheme: ActivationScheme): string => {
  const { grid, globalScale } = scheme
  if (grid === 'nvfp4') return nestedScale(b, absmax, globalScale)
  if (grid === 'mxfp4' || grid === 'mxfp8') return powerScale(b, absmax, grid === 'mxfp4' ? 4 : 256)
  const most = grid === 'fp8' ? largest.e4m3 : halfRange(scheme)
  return b.apply('Max', [b.apply('Div', [absmax, b.number(most)]), b.number(leastScale)])
}

/** Lowest and highest code of integers. */
export const codeRange = (scheme: ActivationScheme): readonly [number, number] => {
  const half = halfRange(scheme)
  return [-Math.ceil(half), Math.floor(half)]
}

/** Values in units of their scale to nearest ones of the grid, ties to even. */
export const roundTo = (b: NodeBuilder, scaled: string, scheme: ActivationScheme): string => {
  const { grid } = scheme
  if (grid === 'nvfp4' || grid === 'mxfp4') return toE2m1(b, scaled)
  if (grid === 'fp8' || grid === 'mxfp8') return toE4m3(b, scaled)
  const [low, high] = codeRange(scheme)
  return b.apply('Clip', [b.apply('Round', [scaled]), b.number(low), b.number(high)])
}
