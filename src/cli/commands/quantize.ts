import { QuantizeError } from '../../errors.ts'
import { nodeFiles } from '../../io/files.ts'
import { resolveRecipe } from '../../recipe.ts'
import type { Report } from '../../report/schema.ts'
import type { QuantizeOptions } from '../parse.ts'
import { openSource, runRecipes } from '../run.ts'
import type { Ui } from '../ui.ts'

export const quantize = async (options: QuantizeOptions, ui: Ui): Promise<void> => {
  const { format: formats, ...request } = options
  const twice = formats?.find((format, i) => formats.indexOf(format) < i)
  if (twice !== undefined) throw new QuantizeError('bad-option', `--format: ${twice} comes twice`)
  const recipes = (formats ?? [undefined]).map(format => resolveRecipe({ ...request, format }))
  const source = openSource(options.model, nodeFiles)
  try {
    const reports = await runRecipes(recipes, source, options, ui)
    if (options.strict) for (const report of reports) checkFallbacks(report)
  } finally {
    source.checkpoint.close()
  }
}

const checkFallbacks = ({ linears }: Report): void => {
  const fallen = linears.filter(({ fallback }) => fallback !== null)
  if (fallen.length > 0)
    throw new QuantizeError(
      'gate',
      `--strict: ${fallen.length} of ${linears.length} linears fell back to rtn; the first: ${fallen[0].name}: ${fallen[0].fallback}`,
    )
}
