/**
 * Presets: a name for clip × grid × granularity × rounding × format. A preset says every choice, so that the report can print it
 * and a flag can replace one.
 */
import type {
  ActivationObserver,
  ActOrder,
  Bits,
  ClipName,
  DeclaredInputs,
  Group,
  Refinement,
  TransformName,
} from '../contracts.ts'
import { QuantizeError } from '../errors.ts'

export interface Method {
  readonly name: MethodName
  readonly summary: string
  readonly paper: string
  /** What a code stands for: one weight, or several. */
  readonly codes: 'scalar' | 'vector'
  /** Quantized after training, or while training. */
  readonly when: 'PTQ' | 'QAT'
  readonly bits: Bits
  readonly symmetric: boolean
  readonly group: Group
  readonly transform: TransformName
  /** Of SmoothQuant: how much of the activations' range moves into the weights, 0 … 1. */
  readonly alpha: number | 'search'
  readonly activations: DeclaredInputs | null
  readonly activationScales: ActivationObserver
  readonly clip: ClipName
  readonly rounding: 'nearest' | 'gptq'
  readonly actOrder: ActOrder
  /** Fraction of the mean diagonal added to the Gram matrix; raised until it factors. */
  readonly damp: number
  /** As Recipe.correct. */
  readonly correct: number
  readonly refine: Refinement
  /** By symmetry: runtimes refuse asymmetric version 1 of `gptq` from any tool but GPTQModel, and read version 2. */
  readonly format: { readonly symmetric: string; readonly asymmetric: string }
}

export type MethodName = 'rtn' | 'gptq' | 'awq' | 'smoothquant' | 'llm.int8'

/** What a method decides that text is needed for. */
export interface Parts {
  readonly rounding: Method['rounding']
  readonly transform: TransformName
  readonly clip: ClipName
  readonly activationScales: ActivationObserver
  readonly biasCorrection?: boolean
}

/** Whether these parts work from what the model's taps see. */
export const needsText = ({ rounding, transform, clip, activationScales, biasCorrection = false }: Parts): boolean =>
  rounding === 'gptq' || transform !== 'none' || clip === 'awq' || activationScales !== 'dynamic' || biasCorrection

/** What most presets have in common. */
const plain = {
  codes: 'scalar',
  when: 'PTQ',
  symmetric: true,
  transform: 'none',
  alpha: 0.5,
  activations: null,
  activationScales: 'dynamic',
  clip: 'minmax',
  rounding: 'nearest',
  actOrder: 'none',
  damp: 0,
  correct: 0,
  refine: 'none',
} as const

export const methods: Readonly<Record<MethodName, Method>> = {
  rtn: {
    name: 'rtn',
    paper: '-',
    summary: 'round to nearest, needs no data',
    ...plain,
    bits: 4,
    group: 128,
    format: { symmetric: 'compressed-tensors', asymmetric: 'compressed-tensors' },
  },
  /** Frantar et al. 2023 (arXiv 2210.17323), true sequential, columns in static activation order. */
  gptq: {
    name: 'gptq',
    paper: 'arXiv 2210.17323',
    summary: 'error feedback from calibration text',
    ...plain,
    bits: 4,
    group: 128,
    rounding: 'gptq',
    actOrder: 'static',
    damp: 0.01,
    format: { symmetric: 'gptq', asymmetric: 'gptq:v2' },
  },
  /** Lin et al. 2024 (arXiv 2306.00978): scales, then clip, then rounding to nearest. */
  awq: {
    name: 'awq',
    paper: 'arXiv 2306.00978',
    summary: 'channel scales and clipping searched by what activations use',
    ...plain,
    bits: 4,
    symmetric: false,
    group: 128,
    transform: 'awq',
    clip: 'awq',
    format: { symmetric: 'awq', asymmetric: 'awq' },
  },
  /** Xiao et al. 2023 (arXiv 2211.10438): weights and activations in 8 bits. */
  smoothquant: {
    name: 'smoothquant',
    paper: 'arXiv 2211.10438',
    summary: 'activation outliers moved into weights; both in 8 bits',
    ...plain,
    bits: 8,
    group: 'channel',
    transform: 'smoothquant',
    activations: { grid: 'int8', symmetric: true, granularity: 'token' },
    format: { symmetric: 'compressed-tensors', asymmetric: 'compressed-tensors' },
  },
  /** Dettmers et al. 2022 (arXiv 2208.07339), as bitsandbytes loads it: outlier features stay in float16 at run time. */
  'llm.int8': {
    name: 'llm.int8',
    paper: 'arXiv 2208.07339',
    summary: "int8 weights for bitsandbytes' mixed product, needs no data",
    ...plain,
    bits: 8,
    group: 'channel',
    format: { symmetric: 'bnb', asymmetric: 'bnb' },
  },
}

export const dataFreeMethods = (): string[] =>
  Object.values(methods)
    .filter(method => !needsText(method))
    .map(method => method.name)

/** @throws QuantizeError bad-option on an unknown name */
export const methodNamed = (name: string): Method => {
  const found = Object.values(methods).find(method => method.name === name.toLowerCase())
  if (!found)
    throw new QuantizeError('bad-option', `--method ${name}: not known; use ${Object.keys(methods).join(' or ')}`)
  return found
}
