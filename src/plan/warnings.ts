/** What a plan warns of: where the output is not quite what one would think. */
import type { Checkpoint, Format, Model } from '../contracts.ts'
import { isDecoded } from '../decoded-checkpoint.ts'
import { matchesGlob } from '../glob.ts'
import { plural } from '../plural.ts'
import type { Recipe } from '../recipe.ts'
import type { ChosenLinears, PlannedLinear } from './linears.ts'

/** Of a source whose runtime quantizes activations, which the output does not say any more. */
const activationWarnings = (checkpoint: Checkpoint, { method }: Recipe, format: Format): string[] =>
  method === 'convert' &&
  isDecoded(checkpoint) &&
  !format.facts.activations &&
  [...checkpoint.schemes.values()].some(({ activations }) => activations)
    ? [
        `format ${format.name} declares no quantized activations, as ${checkpoint.format.name} does: its runtimes leave them as they are`,
      ]
    : []

/** Of head and embedding. */
const besideWarnings = (recipe: Recipe, linears: readonly PlannedLinear[], untied: boolean): string[] => [
  ...(recipe.calibration && linears.some(({ scheme }) => scheme.role !== 'linear')
    ? [`head and embedding are rounded to nearest: ${recipe.method} works on the linears of blocks`]
    : []),
  ...(untied ? ['the head was the embedding: quantized, it is stored as a weight of its own'] : []),
]

/** Types that were wanted and have no whole blocks in the rows. */
const narrowedWarnings = (linears: readonly PlannedLinear[], types: ChosenLinears['types']): string[] => {
  const counts = new Map<string, number>()
  for (const { name, scheme } of linears) {
    const { instead, type } = types?.get(name) ?? {}
    const what = `rows of ${scheme.in} weights are no whole blocks of ${instead}: ${type} instead, as llama-quantize does`
    if (instead) counts.set(what, (counts.get(what) ?? 0) + 1)
  }
  return [...counts].map(([what, count]) => `${plural(count, 'weight')}: ${what}`)
}

const overridden = (name: string, { overrides }: Recipe): boolean =>
  overrides.some(({ glob, group, grid }) => (group ?? grid) !== undefined && matchesGlob(glob, name))

/** Of linears with another group than the one asked for. */
const fallbackWarnings = (recipe: Recipe, linears: readonly PlannedLinear[]): string[] => {
  const fallen = linears.filter(
    ({ name, scheme }) => recipe.groupFallback && scheme.group !== recipe.group && !overridden(name, recipe),
  )
  if (fallen.length === 0) return []
  const groups = new Set(fallen.map(({ scheme }) => `${scheme.in} inputs in groups of ${scheme.group}`))
  return [
    `${plural(fallen.length, 'linear')} with a smaller group than ${recipe.group} (--group-fallback): ${[...groups].join(', ')}`,
  ]
}

/** Of a source that is quantized, or of no known architecture. */
const sourceWarnings = (checkpoint: Checkpoint, architecture: Model | string, { method }: Recipe): string[] => [
  ...(typeof architecture === 'string' ? [] : architecture.notes),
  ...(isDecoded(checkpoint) && method !== 'convert'
    ? [`the source is quantized already (${checkpoint.format.name}): its own error is not in this report`]
    : []),
  ...(typeof architecture === 'string'
    ? [`quantized by tensor shape (${architecture}): every two-dimensional weight but embeddings, norms and heads`]
    : []),
]

/** @param architecture or why there is none */
export const warningsOf = (
  checkpoint: Checkpoint,
  architecture: Model | string,
  recipe: Recipe,
  format: Format,
  { linears, types, untied }: Pick<ChosenLinears, 'linears' | 'types'> & { readonly untied: boolean },
): readonly string[] => [
  ...sourceWarnings(checkpoint, architecture, recipe),
  ...fallbackWarnings(recipe, linears),
  ...narrowedWarnings(linears, types),
  ...besideWarnings(recipe, linears, untied),
  ...activationWarnings(checkpoint, recipe, format),
  ...new Set(linears.flatMap(({ scheme }) => format.warnings(scheme))),
]
