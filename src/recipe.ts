import type {
  ActivationObserver,
  ActOrder,
  Bits,
  ClipName,
  DeclaredInputs,
  FormatFacts,
  GridName,
  Group,
  LinearScheme,
  Refinement,
  TransformName,
} from './contracts.ts'
import type { WeightDtype } from './dtype/dtype.ts'
import { formatNamed } from './format/index.ts'
import type { GgmlTypeName } from './gguf/types.ts'
import { gridPresets } from './method/grids.ts'
import { type Method, type MethodName, methodNamed, needsText } from './method/index.ts'
import { checkImatrix, checkInputs, checkParts, checkTypes, refuse } from './recipe-checks.ts'

/** What was asked, fully resolved; written into the report. */
export interface Recipe {
  readonly method: MethodName | 'convert'
  readonly grid: GridName
  readonly bits: Bits
  readonly symmetric: boolean
  /** `implied`: each linear's own, as the format derives it from the number of inputs. */
  readonly group: Group | 'implied'
  /** Of the head and of the embedding; null: they stay as they are. */
  readonly headBits: Bits | null
  readonly embedBits: Bits | null
  /** Globs over module names: only these linears are quantized, and these are not. */
  readonly include: readonly string[]
  readonly exclude: readonly string[]
  /** Linears with another scheme; of several that match one, the last counts. */
  readonly overrides: readonly Override[]
  /** How the runtime is to quantize what linears read. */
  readonly activations: DeclaredInputs | null
  readonly activationScales: ActivationObserver
  /** Dtype of tensors that stay unquantized; null: as they are. */
  readonly restDtype: WeightDtype | null
  /** Where the group does not divide a linear's inputs: the largest divisor not above it, instead of an error. */
  readonly groupFallback: boolean
  /** Before rounding. */
  readonly transform: TransformName
  /** Its strength, of SmoothQuant. */
  readonly alpha: number | 'search'
  readonly clip: ClipName
  readonly rounding: Method['rounding']
  readonly actOrder: ActOrder
  readonly damp: number
  /** Share of the way to weights that make up for quantized linears before them (engine/ort/drift.ts); 0: none of it. */
  readonly correct: number
  readonly refine: Refinement
  /** Biases make up for what rounding takes from the mean of outputs (quantize/bias-correction.ts). */
  readonly biasCorrection: boolean
  readonly format: string
  readonly unfit: 'error' | 'keep'
  /** Of a conversion: values that the format cannot hold exactly are rounded to nearest. */
  readonly lossy: boolean
  /** A weight or activation that is NaN or infinite: stop, or take 0. */
  readonly nonfinite: 'error' | 'zero'
  /** Path of an importance matrix, by which errors are weighed; null: none. */
  readonly imatrix: string | null
  /** Path of a file of statistics, which stands for calibration; null: none. */
  readonly stats: string | null
  /** undefined where no model is run: the method needs no data, or has statistics. */
  readonly calibration?: CalibrationRecipe
  readonly shardBytes: number
}

/** Whether a run sees each block twice: unquantized, for its transform, and while it is quantized. */
export const looksAhead = ({ transform, rounding }: Pick<Recipe, 'transform' | 'rounding'>): boolean =>
  transform !== 'none' && rounding !== 'nearest'

/** A scheme for the linears whose module name matches. */
export interface Override {
  readonly glob: string
  readonly grid?: GridName
  readonly bits?: Bits
  readonly symmetric?: boolean
  readonly group?: Group
  /** Of a format whose weights have types (GGUF); then nothing else. */
  readonly type?: GgmlTypeName
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
  /** Which of these the user gave himself; the rest are defaults. */
  readonly explicit?: ReadonlySet<string>
  readonly method?: string
  readonly grid?: GridName
  readonly bits?: Bits
  /** 'none': left as it is. */
  readonly headBits?: Bits | 'none'
  readonly embedBits?: Bits | 'none'
  readonly include?: readonly string[]
  readonly exclude?: readonly string[]
  readonly overrides?: readonly Override[]
  readonly activations?: DeclaredInputs | 'none'
  readonly activationScales?: ActivationObserver
  readonly restDtype?: WeightDtype
  readonly symmetric?: boolean
  readonly group?: Group
  readonly groupFallback?: boolean
  readonly transform?: TransformName
  readonly alpha?: number | 'search'
  readonly stats?: string
  readonly clip?: ClipName
  readonly actOrder?: ActOrder
  readonly damp?: number
  readonly correct?: number
  readonly refine?: Refinement
  readonly biasCorrection?: boolean
  readonly format?: string
  readonly unfit?: 'error' | 'keep'
  readonly nonfinite?: 'error' | 'zero'
  readonly imatrix?: string
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

/** The width of a grid's codes. @throws QuantizeError bad-option when the grid has another */
export const bitsOf = (grid: GridName, asked: Bits | undefined, otherwise: Bits): Bits => {
  const { bits } = gridPresets[grid]
  if (bits !== undefined && asked !== undefined && asked !== bits)
    refuse(`--bits ${asked}: grid ${grid} has ${bits} bits; leave --bits out`)
  return bits ?? asked ?? otherwise
}

/** The format's own grid, unless the bits that were asked for are another's. */
const preferredGrid = (facts: FormatFacts | undefined, bits: Bits | undefined): GridName => {
  const own = facts?.defaults?.grid ?? 'int'
  const known = gridPresets[own].bits
  return bits !== undefined && known !== undefined && bits !== known ? 'int' : own
}

/** A format's choice counts for its own grid; then the grid's; integers with quantized activations have one scale a channel. */
const usualGroup = (
  { activations = 'none' }: RecipeRequest,
  grid: GridName,
  facts: FormatFacts,
  method: Method,
): Group => {
  const { grid: own = 'int', group } = facts.defaults ?? {}
  if (grid === 'int' && (activations !== 'none' || own !== 'int')) return 'channel'
  return (grid === own ? group : undefined) ?? gridPresets[grid].group ?? group ?? method.group
}

/**
 * Fills in a request: from what the grid settles, then from what the format prefers, then from the method's preset.
 * @throws QuantizeError bad-option when method or format are unknown, or cannot use what was asked
 */
export const resolveRecipe = (request: RecipeRequest): Recipe => {
  const method: Method = methodNamed(request.method ?? defaults.method)
  const asked = request.format === undefined ? undefined : formatNamed(request.format).facts
  const grid = request.grid ?? preferredGrid(asked, request.bits)
  const preset = gridPresets[grid]
  if (grid !== 'int' && request.symmetric === false) refuse(`--asym: grid ${grid} has no zero point; leave it out`)
  const symmetric = request.symmetric ?? (grid === 'int' ? (asked?.defaults?.symmetric ?? method.symmetric) : true)
  const format = request.format ?? preset.format ?? method.format[symmetric ? 'symmetric' : 'asymmetric']
  const chosen = formatNamed(format)
  const { facts } = chosen
  checkTypes(request, chosen)
  const bits = bitsOf(grid, request.bits, facts.defaults?.bits ?? method.bits)
  const group = request.group ?? (facts.impliedGroup ? 'implied' : usualGroup(request, grid, facts, method))
  const actOrder = request.actOrder ?? method.actOrder
  if (actOrder === 'g_idx' && typeof group !== 'number')
    refuse(`--act-order g_idx needs groups of columns; with --group ${group} use --act-order static`)
  const beside = (asked: Bits | 'none' | undefined): Bits | null =>
    asked === 'none' ? null : (asked ?? (facts.defaults?.embedding ? bits : null))
  const transform = request.transform ?? method.transform
  const clip = request.clip ?? method.clip
  const activations = request.activations === 'none' ? null : (request.activations ?? method.activations)
  const activationScales = request.activationScales ?? method.activationScales
  const { biasCorrection = false } = request
  const needsData = needsText({ rounding: method.rounding, transform, clip, activationScales, biasCorrection })
  const feedback = method.rounding !== 'nearest'
  const refine = request.refine ?? (feedback ? facts.defaults?.refine : undefined) ?? method.refine
  if (refine === 'cd' && actOrder === 'g_idx')
    refuse('--refine cd: groups of --act-order g_idx are fitted during the sweep; use --act-order static')
  const correctable = feedback && !request.stats && !biasCorrection
  const correct = request.correct ?? (correctable ? facts.defaults?.correct : undefined) ?? method.correct
  checkImatrix(request, { transform, needsData, method }, chosen)
  checkParts(request, { transform, clip, actOrder, group, correct }, chosen)
  checkInputs(request, { activations, activationScales, transform, group, rounding: method.rounding }, chosen)
  return {
    method: method.name,
    grid,
    bits,
    symmetric,
    group,
    headBits: beside(request.headBits ?? (facts.defaults?.embedding ? request.embedBits : undefined)),
    embedBits: beside(request.embedBits),
    include: request.include ?? [],
    exclude: request.exclude ?? [],
    overrides: request.overrides ?? [],
    ...{ activations, activationScales },
    restDtype: request.restDtype ?? null,
    groupFallback: request.groupFallback ?? false,
    transform,
    alpha: request.alpha ?? method.alpha,
    clip,
    rounding: method.rounding,
    actOrder,
    damp: request.damp ?? method.damp,
    correct,
    refine,
    biasCorrection,
    format,
    unfit: request.unfit ?? defaults.unfit,
    lossy: false,
    nonfinite: request.nonfinite ?? defaults.nonfinite,
    imatrix: request.imatrix ?? null,
    stats: request.stats ?? null,
    calibration:
      needsData && request.stats === undefined
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

const unquantized = { grid: 'int', bits: 8, symmetric: true, group: 'channel', actOrder: 'none' } as const

export interface ConversionRequest {
  readonly format: string
  readonly lossy: boolean
  readonly restDtype?: WeightDtype
  readonly unfit?: 'error' | 'keep'
  readonly shardBytes?: number
}

/**
 * A conversion keeps codes: each linear has the scheme that it has in the source.
 * @param typical a scheme of the source: what configs name as the default; undefined: no weight of it is quantized
 */
export const conversionRecipe = (request: ConversionRequest, typical: LinearScheme | undefined): Recipe => {
  const { grid, bits, symmetric, group, actOrder } = typical ?? unquantized
  const valueDtype = typical ? undefined : formatNamed(request.format).facts.valueDtype
  const {
    format,
    lossy,
    restDtype = valueDtype ?? null,
    unfit = defaults.unfit,
    shardBytes = defaults.shardBytes,
  } = request
  formatNamed(format)
  return {
    method: 'convert',
    ...{ grid, bits, symmetric, group, actOrder, format, lossy, restDtype, unfit, shardBytes },
    ...{ headBits: null, embedBits: null, include: [], exclude: [], overrides: [], activations: null },
    activationScales: 'dynamic',
    ...{
      groupFallback: false,
      transform: 'none',
      alpha: 0,
      clip: 'minmax',
      rounding: 'nearest',
      damp: 0,
      correct: 0,
      refine: 'none',
      biasCorrection: false,
      nonfinite: defaults.nonfinite,
      imatrix: null,
      stats: null,
      calibration: undefined,
    },
  }
}
