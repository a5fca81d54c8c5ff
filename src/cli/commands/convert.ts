import { isDecoded } from '../../decoded-checkpoint.ts'
import { QuantizeError } from '../../errors.ts'
import { nodeFiles } from '../../io/files.ts'
import { conversionRecipe } from '../../recipe.ts'
import type { ConvertOptions } from '../parse.ts'
import { openSource, runRecipes } from '../run.ts'
import type { Ui } from '../ui.ts'

/** @throws QuantizeError unsupported for a checkpoint that is not quantized, or values that a format does not hold exactly */
export const convert = async (options: ConvertOptions, ui: Ui): Promise<void> => {
  const source = openSource(options.model, nodeFiles)
  try {
    const { checkpoint } = source
    const [typical] = isDecoded(checkpoint) ? checkpoint.schemes.values() : []
    if (!typical)
      throw new QuantizeError('unsupported', `${options.model}: is not quantized; quantize ${options.model} does that`)
    const recipes = (options.format ?? ['safetensors']).map(format => conversionRecipe({ ...options, format }, typical))
    await runRecipes(recipes, source, options, ui)
  } finally {
    source.checkpoint.close()
  }
}
