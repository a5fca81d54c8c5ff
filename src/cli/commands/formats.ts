import type { Format } from '../../contracts.ts'
import { formats } from '../../format/index.ts'
import { resolveRecipe } from '../../recipe.ts'
import type { FormatsOptions } from '../parse.ts'
import type { Ui } from '../ui.ts'

/** What a format says of itself, as plain data. */
const described = ({ name, facts }: Format) => {
  const { summary, grids, bits, groups, head, embedding, loaders } = facts
  return {
    ...{ name, summary, grids, bits, groups, head, embedding, loaders },
    activations: facts.activations ?? false,
    dense: facts.dense ?? false,
    container: facts.container ?? 'safetensors',
    defaults: facts.mix ? null : defaultsOf(name),
  }
}

/** What a run has that names only the format. */
const defaultsOf = (format: string) => {
  const { grid, bits, symmetric, group } = resolveRecipe({ format })
  return { grid, bits, symmetric, group }
}

type Described = ReturnType<typeof described>

export const listFormats = async ({ json }: FormatsOptions, ui: Ui): Promise<void> => {
  const all = Object.values<Format>(formats).map(described)
  if (json) ui.json({ formats: all })
  else ui.data(all.map(formatText).join('\n\n'))
}

/** What it holds besides the linears of blocks. */
const besideText = ({ head, embedding }: Described): string =>
  head && embedding ? 'head and embedding' : head ? 'head' : embedding ? 'embedding' : 'no head, no embedding'

/** `1-8` for a run, `2, 3, 4, 8` otherwise. */
const bitsText = (bits: Described['bits']): string => {
  const isRun = bits.length > 2 && bits.every((width, i) => width === bits[0] + i)
  return isRun ? `${bits[0]}-${bits[bits.length - 1]}` : bits.join(', ')
}

/** As flags say it. */
const defaultsText = ({ defaults }: Described): string => {
  if (!defaults) return 'the types of the mix'
  const { grid, bits, symmetric, group } = defaults
  const scheme = grid === 'int' ? `--bits ${bits} ${symmetric ? '--sym' : '--asym'}` : `--grid ${grid}`
  return group === 'implied' ? scheme : `${scheme} --group ${group}`
}

const formatText = (format: Described): string => {
  const rows = [
    ['grids', format.grids.join(', ')],
    ['bits', bitsText(format.bits)],
    ['groups', format.groups],
    ['default', defaultsText(format)],
    ['also', besideText(format)],
    ['loaded by', format.loaders],
  ]
  return [`${format.name}: ${format.summary}`, ...rows.map(([title, text]) => `  ${title.padEnd(9)}  ${text}`)].join(
    '\n',
  )
}
