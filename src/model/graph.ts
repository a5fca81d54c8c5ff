/** From a parsed config.json and the names and shapes of a checkpoint's tensors to the model: blocks, stages, ops. */
import type { Model, TensorInfo } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { architectures } from './arch/index.ts'
import { checkFields, openConfig, shown } from './config.ts'
import { foreign, withoutEffect } from './fields.ts'
import { openStore, type QuantizedShapes } from './store.ts'

/** Values of `model_type` that have an architecture file. */
export const knownModelTypes: readonly string[] = architectures.flatMap(({ modelTypes }) => modelTypes)

/**
 * The model that a config describes, its tensors checked by name and shape. No weight is read.
 * @param config parsed config.json; `quantization_config` in it is the caller's to read
 * @param tensors of the checkpoint, by name
 * @param configFile name of the config, for messages
 * @param quantized modules whose weight is stored in another form than `<module>.weight`, with their decoded shape
 *   (of a GPTQ checkpoint: the linears that its format detects); their biases and everything else are plain tensors
 * @throws QuantizeError unsupported: an unknown model_type, or a config field with a value that changes the function and that
 *   is not computed here, named; bad-input: missing or absurd fields, missing tensors, other shapes
 */
export const buildModel = (
  config: unknown,
  tensors: ReadonlyMap<string, TensorInfo>,
  configFile: string,
  quantized: QuantizedShapes = new Map(),
): Model => {
  const opened = openConfig(config, configFile)
  const type = opened.text('model_type')
  const arch = architectures.find(({ modelTypes }) => modelTypes.includes(type))
  if (!arch) {
    throw new QuantizeError(
      'unsupported',
      `${configFile}: model_type ${shown(type)} has no architecture here (known: ${knownModelTypes.join(', ')}); ` +
        '--method rtn works without one, by tensor shape',
    )
  }
  const notes = checkFields(opened, type, arch.fields(opened), withoutEffect, foreign)
  const { notes: own, ...model } = arch.build(opened, openStore(tensors, configFile, quantized))
  return { arch: arch.name, ...model, notes: [...notes, ...own] }
}
