/** Schemes of activations: which there can be, how they are written, and whose they are in a model. */
import type { ActivationScheme, Linear, Model, StaticObserver } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'

/** A scheme of --activations. */
export interface AskedScheme extends ActivationScheme {
  /** How its stored scales are found in statistics. */
  readonly observer?: StaticObserver
}

/** Grids that come with a group of their own, as their runtimes have it. */
export const ownGroups: Readonly<Partial<Record<ActivationScheme['grid'], number>>> = {
  nvfp4: 16,
  mxfp4: 32,
  mxfp8: 32,
}

/** Why a scheme cannot be; undefined: it can, of inputs that its groups divide. */
export const schemeRefusal = ({
  grid,
  symmetric,
  granularity,
  dynamic,
  scale,
}: ActivationScheme): string | undefined => {
  const own = ownGroups[grid]
  if (!symmetric && grid !== 'int4' && grid !== 'int8')
    return `${grid} has no zero point; only int4 and int8 are asymmetric`
  if (own !== undefined && granularity !== own) return `${grid} has scales over groups of ${own}`
  if (dynamic) return undefined
  if (own !== undefined) return `${grid} has a scale for each group as it comes, no static one`
  return scale === undefined || granularity !== 'tensor' ? 'a static scheme has one stored scale a tensor' : undefined
}

const refusalOf = ({ activations, in: inputs }: Linear): string | undefined => {
  if (!activations) return undefined
  const { granularity } = activations
  const own = schemeRefusal(activations)
  if (own !== undefined || typeof granularity !== 'number' || inputs % granularity === 0) return own
  return `groups of ${granularity} do not divide its ${inputs} inputs`
}

const linearsOf = ({ blocks }: Model): readonly Linear[] =>
  blocks.flatMap(({ stages }) => stages.flatMap(({ linears }) => linears))

/** @throws QuantizeError unsupported naming the first linear whose activations cannot be quantized as its scheme says */
export const checkActivations = (model: Model): void => {
  for (const linear of [...linearsOf(model), model.head]) {
    const refusal = refusalOf(linear)
    if (refusal)
      throw new QuantizeError(
        'unsupported',
        `${linear.name}: activations ${schemeText(linear.activations!)}: ${refusal}`,
      )
  }
}

/** A scheme as --activations takes it, and what only a checkpoint or a format can say. */
export const schemeText = (scheme: ActivationScheme): string => {
  const { grid, symmetric, granularity, dynamic, reach, globalScale, outliers } = scheme
  return [
    `${grid}:${symmetric ? 'sym' : 'asym'}`,
    typeof granularity === 'number' ? `group=${granularity}` : granularity,
    ...(dynamic ? [] : ['static']),
    ...(globalScale === undefined ? [] : ['static-global']),
    ...(reach === undefined ? [] : [`reach=${reach}`]),
    ...(outliers === undefined ? [] : [`outliers=${outliers}`]),
  ].join(',')
}

/** The schemes of a model's linears as text, each once, in the model's order; the head's with its name where it is another one. */
export const schemesOf = (model: Model): readonly string[] => {
  const texts = (linears: readonly Linear[]): readonly string[] =>
    linears.flatMap(({ activations }) => (activations ? [schemeText(activations)] : []))
  const ofBlocks = new Set(texts(linearsOf(model)))
  const ofHead = texts([model.head]).filter(text => !ofBlocks.has(text))
  return [...ofBlocks, ...ofHead.map(text => `${text} (head)`)]
}

/** The model with another scheme of each linear: of the block's, and of the head. */
export const mapActivations = (
  model: Model,
  ofLinear: (linear: Linear) => ActivationScheme | undefined,
  ofHead: ActivationScheme | undefined,
): Model => ({
  ...model,
  head: { ...model.head, activations: ofHead },
  blocks: model.blocks.map(block => ({
    ...block,
    stages: block.stages.map(stage => ({
      ...stage,
      linears: stage.linears.map(linear => ({ ...linear, activations: ofLinear(linear) })),
    })),
  })),
})

/** What was asked for instead of what the checkpoint declares. */
export interface Asked {
  readonly model: Model
  /** Declared schemes that do not count, in a sentence. */
  readonly warning?: string
}

/**
 * The model under a scheme of the linears of its blocks; `none`: of no linear, the head included.
 * @param settle the scheme of a linear, where its input settles something of it: the scale of a static one
 */
export const withScheme = (
  model: Model,
  scheme: ActivationScheme | 'none',
  settle?: (linear: Linear) => ActivationScheme,
): Asked => {
  const none = scheme === 'none'
  const asked = mapActivations(
    model,
    linear => (none ? undefined : (settle?.(linear) ?? scheme)),
    none ? undefined : model.head.activations,
  )
  const declared = schemesOf(none ? model : { ...model, head: { ...model.head, activations: undefined } })
  const others = declared.filter(text => none || text !== schemeText(scheme))
  if (others.length === 0) return { model: asked }
  return {
    model: asked,
    warning: `activations are ${others.join(' and ')} by the checkpoint or its runtime; --activations ${none ? 'none leaves them as they are' : `evaluates ${schemeText(scheme)}`}`,
  }
}
