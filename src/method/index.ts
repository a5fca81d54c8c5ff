/**
 * Presets: a name for clip × grid × granularity × rounding × format. A preset says every choice, so that the report can print it
 * and a flag can replace one.
 */
import type { ActOrder, Bits, ClipName, Group, Refinement, StatisticName } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'

export interface Method {
  readonly name: MethodName
  readonly summary: string
  readonly bits: Bits
  readonly symmetric: boolean
  readonly group: Group
  readonly clip: ClipName
  readonly rounding: 'nearest' | 'gptq'
  readonly actOrder: ActOrder
  /** Fraction of the mean diagonal added to the Gram matrix; raised until it factors. */
  readonly damp: number
  /** As Recipe.correct. */
  readonly correct: number
  readonly refine: Refinement
  /** Statistics of each tap that the rounding needs; none: the method works without calibration text. */
  readonly needs: readonly StatisticName[]
  /** By symmetry: runtimes refuse asymmetric version 1 of `gptq` from any tool but GPTQModel, and read version 2. */
  readonly format: { readonly symmetric: string; readonly asymmetric: string }
}

export type MethodName = 'rtn' | 'gptq'

export const methods: Readonly<Record<MethodName, Method>> = {
  rtn: {
    name: 'rtn',
    summary: 'round to nearest, needs no data',
    bits: 4,
    symmetric: true,
    group: 128,
    clip: 'minmax',
    rounding: 'nearest',
    actOrder: 'none',
    damp: 0,
    correct: 0,
    refine: 'none',
    needs: [],
    format: { symmetric: 'compressed-tensors', asymmetric: 'compressed-tensors' },
  },
  /** Frantar et al. 2023 (arXiv 2210.17323), true sequential, columns in static activation order. */
  gptq: {
    name: 'gptq',
    summary: 'error feedback from calibration text',
    bits: 4,
    symmetric: true,
    group: 128,
    clip: 'minmax',
    rounding: 'gptq',
    actOrder: 'static',
    damp: 0.01,
    correct: 0,
    refine: 'none',
    needs: ['gram'],
    format: { symmetric: 'gptq', asymmetric: 'gptq:v2' },
  },
}

export const dataFreeMethods = (): string[] =>
  Object.values(methods)
    .filter(method => method.needs.length === 0)
    .map(method => method.name)

/** @throws QuantizeError bad-option on an unknown name */
export const methodNamed = (name: string): Method => {
  const found = Object.values(methods).find(method => method.name === name.toLowerCase())
  if (!found)
    throw new QuantizeError('bad-option', `--method ${name}: not known; use ${Object.keys(methods).join(' or ')}`)
  return found
}
