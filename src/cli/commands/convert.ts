import { isDecoded } from '../../decoded-checkpoint.ts'
import { QuantizeError } from '../../errors.ts'
import { formatNamed } from '../../format/index.ts'
import { nodeFiles } from '../../io/files.ts'
import { conversionRecipe } from '../../recipe.ts'
import type { ConvertOptions } from '../parse.ts'
import { openSource, runRecipes } from '../run.ts'
import type { Ui } from '../ui.ts'

/** @throws QuantizeError unsupported for a checkpoint without codes into a format of codes, or values that a format does not hold exactly */
export const convert = async (options: ConvertOptions, ui: Ui): Promise<void> => {
  const source = openSource(options.model, nodeFiles)
  try {
    const { checkpoint } = source
    const [typical] = isDecoded(checkpoint) ? checkpoint.schemes.values() : []
    const formats = options.format ?? ['safetensors']
    const coded = formats.find(format => !formatNamed(format).facts.dense)
    if (!typical && coded !== undefined)
      throw new QuantizeError(
        'unsupported',
        `${options.model}: is not quantized, and format ${coded} stores codes; quantize ${options.model} --format ${coded} does that`,
      )
    const recipes = formats.map(format => conversionRecipe({ ...options, format }, typical))
    await runRecipes(recipes, source, options, ui)
  } finally {
    source.checkpoint.close()
  }
}
