import type { Format, LinearScheme } from '../../contracts.ts'
import { QuantizeError } from '../../errors.ts'
import { formats } from '../../format/index.ts'
import { type Method, methods, needsText } from '../../method/index.ts'
import { activationScheme } from '../../plan/schemes.ts'
import { type Recipe, resolveRecipe } from '../../recipe.ts'
import type { MethodsOptions } from '../parse.ts'
import type { Ui } from '../ui.ts'

/** A linear like most, as a recipe would quantize it. */
const usualScheme = ({
  grid,
  bits,
  symmetric,
  group,
  actOrder,
  activations,
  activationScales,
}: Recipe): LinearScheme => {
  const shape = { out: 4096, in: 4096 }
  const settled = group === 'implied' ? 'channel' : group
  return {
    ...{ name: 'example', role: 'linear', dtype: 'BF16', grid, bits, symmetric, actOrder, ...shape },
    group: settled,
    groups: typeof settled === 'number' ? shape.in / settled : 1,
    activations: activationScheme({ activations, activationScales }, settled),
  }
}

/** Whether a format holds what the preset makes, with no other option than --format. */
const holds = (method: Method, { name, facts, choose, refuses }: Format): boolean => {
  try {
    const recipe = resolveRecipe({ method: method.name, format: name })
    if (recipe.activations && !facts.activations) return false
    if (choose) return true
    const scheme = usualScheme(recipe)
    return recipe.bits === method.bits && facts.grids.includes(recipe.grid) && refuses(scheme) === undefined
  } catch (error) {
    if (error instanceof QuantizeError) return false
    throw error
  }
}

/** What a preset says of itself, as plain data. */
const described = (method: Method) => {
  const { name, summary, paper, codes, when, bits, symmetric, group, activations, format } = method
  const families = Object.values<Format>(formats)
    .filter(candidate => holds(method, candidate))
    .map(candidate => candidate.name.split(':')[0])
  return {
    ...{ name, summary, weights: `${bits} bits`, activations: activations?.grid ?? 'as they are' },
    ...{
      symmetry: symmetric ? 'sym' : 'asym',
      codes,
      scales: `per ${typeof group === 'number' ? `group of ${group}` : group}`,
    },
    ...{ when, text: needsText(method), paper },
    format: symmetric ? format.symmetric : format.asymmetric,
    formats: [...new Set(families)],
  }
}

export const listMethods = async ({ json }: MethodsOptions, ui: Ui): Promise<void> => {
  const all = Object.values(methods).map(described)
  if (json) ui.json({ methods: all })
  else ui.data(all.map(methodText).join('\n\n'))
}

const methodText = (method: ReturnType<typeof described>): string => {
  const { name, summary, weights, activations, symmetry, codes, scales, when, text, paper, format, formats } = method
  const rows = [
    ['weights', `${weights}, ${symmetry}, ${codes} codes, a scale ${scales}`],
    ['inputs', activations],
    ['kind', `${when}, ${text ? 'from calibration text or --stats' : 'needs no data'}`],
    ['formats', `${format} by itself; ${formats.join(', ')}`],
    ['paper', paper],
  ]
  return [`${name}: ${summary}`, ...rows.map(([title, value]) => `  ${title.padEnd(8)}  ${value}`)].join('\n')
}
