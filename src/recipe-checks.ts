/** Which options of a request go together. */
import type { Format } from './contracts.ts'
import { QuantizeError } from './errors.ts'
import type { Method } from './method/index.ts'
import type { Recipe, RecipeRequest } from './recipe.ts'

/** @throws QuantizeError bad-option */
export const refuse = (message: string): never => {
  throw new QuantizeError('bad-option', message)
}

/** Options that say what a type says already. */
const settledByTypes = {
  grid: '--grid',
  bits: '--bits',
  group: '--group',
  symmetric: '--sym and --asym',
  groupFallback: '--group-fallback',
  clip: '--clip',
} as const satisfies Partial<Record<keyof RecipeRequest, string>>

/** @throws QuantizeError bad-option where an option would be without effect: of a format whose weights have types, or of one whose weights have none */
export const checkTypes = (request: RecipeRequest, { name, choose }: Format): void => {
  const settled = Object.entries(settledByTypes).find(([key]) => {
    const value = request[key as keyof RecipeRequest]
    return key === 'groupFallback' ? value === true : value !== undefined
  })
  const instead = "choose another mix (quantize formats lists them), or --override '<glob>=q6_k'"
  if (choose && settled) refuse(`${settled[1]}: format ${name} has types that settle it; leave it out: ${instead}`)
  if (choose && request.actOrder === 'g_idx') refuse(`--act-order g_idx: format ${name} has no place for an order`)
  for (const { glob, type, ...scheme } of request.overrides ?? []) {
    if (choose && Object.keys(scheme).length > 0)
      refuse(`--override ${glob}: format ${name} has types; give one, such as '${glob}=q6_k'`)
    if (!choose && type) refuse(`--override ${glob}=${type.toLowerCase()}: only GGUF has types, not format ${name}`)
  }
  if (choose && (request.headBits === 'none' || request.embedBits === 'none'))
    refuse(`--head-bits, --embed-bits none: with format ${name} use --override '<glob>=f16', or --exclude`)
}

/** @throws QuantizeError bad-option for an importance matrix that nothing would be weighed by */
export const checkImatrix = (
  request: RecipeRequest,
  {
    transform,
    needsData,
    method,
  }: Pick<Recipe, 'transform'> & { readonly needsData: boolean; readonly method: Method },
  { name, choose }: Format,
): void => {
  if (request.imatrix === undefined) return
  if (!choose) refuse(`--imatrix: only GGUF's types weigh by one, not format ${name}`)
  if (!needsData && request.stats === undefined) return
  const asked = [
    ...(request.stats === undefined ? [] : ['--stats']),
    ...(request.biasCorrection ? ['--bias-correction'] : []),
    ...((request.transform ?? 'none') === 'none' ? [] : [`--transform ${transform}`]),
    `--method ${method.name}`,
  ]
  refuse(`--imatrix has no effect with ${asked[0]}, which measures its own importances; leave it out`)
}

/** @throws QuantizeError bad-option for parts that do not go together, or options that they leave without effect */
export const checkParts = (
  request: RecipeRequest,
  { transform, clip, actOrder, group, correct }: Pick<Recipe, 'transform' | 'clip' | 'actOrder' | 'group' | 'correct'>,
  { name, choose }: Format,
): void => {
  if (request.alpha !== undefined && transform !== 'smoothquant')
    refuse('--alpha is the strength of --transform smoothquant; leave it out')
  if (clip === 'awq' && actOrder === 'g_idx')
    refuse('--clip awq: groups of --act-order g_idx are fitted during the sweep; use --act-order static')
  if (clip === 'awq' && (group === 'tensor' || group === 'block'))
    refuse(`--clip awq cuts groups of columns, not --group ${group}; use --clip mse`)
  if (clip === 'awq' && choose) refuse(`--clip awq: format ${name} has scales of its own search; use --clip minmax`)
  if (correct > 0 && request.stats !== undefined)
    refuse('--correct follows a model while it is quantized, which --stats does without; leave one of them out')
  if (correct > 0 && request.biasCorrection)
    refuse(
      '--correct moves the outputs of linears on purpose, and --bias-correction would move their means back; leave one of them out',
    )
  if (request.stats !== undefined)
    for (const key of ['calib', 'samples', 'seqLen', 'seed'] as const)
      if (request.explicit?.has(key)) refuse(`--${key === 'seqLen' ? 'seq-len' : key} has no effect with --stats`)
}

/** @throws QuantizeError bad-option for quantized inputs, or stored scales of them, that cannot be */
export const checkInputs = (
  { stats }: RecipeRequest,
  {
    activations,
    activationScales,
    transform,
    group,
    rounding,
  }: Pick<Recipe, 'activations' | 'activationScales' | 'transform' | 'group' | 'rounding'>,
  { name, choose }: Format,
): void => {
  if (choose && activations)
    refuse(`format ${name} declares no quantized inputs, its runtime rounds them by itself; use --activations none`)
  if (activationScales === 'dynamic') return
  const flag = `--activation-scales ${activationScales}`
  const inputs =
    activations ?? refuse(`${flag} is of quantized inputs; give --activations int8 or fp8, or leave it out`)
  if (inputs.granularity !== 'token')
    refuse(`${flag}: a stored scale is of the whole input, not of ${inputs.granularity}; use dynamic`)
  if (group === 'block') refuse(`${flag}: with --group block inputs have scales of their own; use dynamic`)
  if (activationScales === 'minmax') return
  if (inputs.grid === 'fp8') refuse(`${flag}: FP8 loses nothing to a wide range; use minmax`)
  if (transform !== 'none' && (stats !== undefined || rounding === 'nearest'))
    refuse(
      `${flag} looks at the histogram of inputs, which --transform ${transform} changes after they were seen; use minmax, or --method gptq without --stats`,
    )
}
