import type { ActOrder, Bits, ClipName, GridName, Group } from './contracts.ts'
import { QuantizeError } from './errors.ts'
import { type Method, type MethodName, methodNamed } from './method/index.ts'

/** What was asked, fully resolved; written into the report. */
export interface Recipe {
  readonly method: MethodName
  readonly grid: GridName
  readonly bits: Bits
  readonly symmetric: boolean
  readonly group: Group
  /** Where the group does not divide a linear's inputs: the largest divisor not above it, instead of an error. */
  readonly groupFallback: boolean
  readonly clip: ClipName
  readonly actOrder: ActOrder
  readonly damp: number
  readonly format: string
  readonly unfit: 'error' | 'keep'
  /** A weight or activation that is NaN or infinite: stop, or take 0. */
  readonly nonfinite: 'error' | 'zero'
  /** undefined for a method that needs no data. */
  readonly calibration?: CalibrationRecipe
  readonly shardBytes: number
}

export interface CalibrationRecipe {
  /** `bundled`, or a path to a .txt or .jsonl file. */
  readonly text: string
  readonly samples: number
  readonly seqLen: number
  readonly seed: number
}

/** What the user said; whatever is missing comes from the method's preset. */
export interface RecipeRequest {
  readonly method?: string
  readonly bits?: Bits
  readonly symmetric?: boolean
  readonly group?: Group
  readonly groupFallback?: boolean
  readonly clip?: ClipName
  readonly actOrder?: ActOrder
  readonly damp?: number
  readonly format?: string
  readonly unfit?: 'error' | 'keep'
  readonly nonfinite?: 'error' | 'zero'
  readonly calib?: string
  readonly samples?: number
  readonly seqLen?: number
  readonly seed?: number
  readonly shardBytes?: number
}

export const defaults = {
  method: 'gptq',
  calib: 'bundled',
  samples: 128,
  seqLen: 512,
  seed: 0,
  unfit: 'error',
  nonfinite: 'error',
  shardBytes: 5_000_000_000,
} as const

/**
 * Fills in a request from its method's preset.
 * @throws QuantizeError bad-option when the method is unknown, or cannot use what was asked
 */
export const resolveRecipe = (request: RecipeRequest): Recipe => {
  const method: Method = methodNamed(request.method ?? defaults.method)
  const needsData = method.needs.length > 0
  const group = request.group ?? method.group
  const symmetric = request.symmetric ?? method.symmetric
  const actOrder = request.actOrder ?? method.actOrder
  if (actOrder === 'g_idx' && typeof group !== 'number')
    throw new QuantizeError(
      'bad-option',
      `--act-order g_idx needs groups of columns; with --group ${group} use --act-order static`,
    )
  return {
    method: method.name,
    grid: 'int',
    bits: request.bits ?? method.bits,
    symmetric,
    group,
    groupFallback: request.groupFallback ?? false,
    clip: request.clip ?? method.clip,
    actOrder,
    damp: request.damp ?? method.damp,
    format: request.format ?? method.format[symmetric ? 'symmetric' : 'asymmetric'],
    unfit: request.unfit ?? defaults.unfit,
    nonfinite: request.nonfinite ?? defaults.nonfinite,
    calibration: needsData
      ? {
          text: request.calib ?? defaults.calib,
          samples: request.samples ?? defaults.samples,
          seqLen: request.seqLen ?? defaults.seqLen,
          seed: request.seed ?? defaults.seed,
        }
      : undefined,
    shardBytes: request.shardBytes ?? defaults.shardBytes,
  }
}
