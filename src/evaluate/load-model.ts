import { modelConfigs } from '../checkpoint/beside.ts'
import { openCheckpoint } from '../checkpoint/open-checkpoint.ts'
import { readWeight } from '../checkpoint/read-weight.ts'
import type { ActivationScheme, Checkpoint, Configs, Model } from '../contracts.ts'
import { dequantize } from '../dequantize.ts'
import type { ReadWeight } from '../engine/ort/activations.ts'
import { QuantizeError } from '../errors.ts'
import { configFiles, type DetectedFormat, detectFormat, formatNames } from '../format/index.ts'
import { moduleOf } from '../format/stored.ts'
import type { Files } from '../io/files.ts'
import { shown } from '../model/config.ts'
import { buildModel } from '../model/graph.ts'
import { mapActivations } from './activation-scheme.ts'

/** A model as it lies on disk, plain or quantized. */
export interface LoadedModel {
  readonly checkpoint: Checkpoint
  /** As its runtime computes it: what linears read is quantized, where the checkpoint or the format says so. */
  readonly model: Model
  /** The same, in full precision. */
  readonly plain: Model
  /** Name of the format of its quantized linears; undefined: plain. */
  readonly format: string | undefined
  /** Values of a view; quantized weights come dequantized, in the form of their format. */
  readonly read: ReadWeight
}

/**
 * @throws QuantizeError bad-input for a broken checkpoint, unsupported for an architecture or a quantization that is not known; the
 *   caller closes `checkpoint`
 */
export const loadModel = (path: string, files: Files): LoadedModel => {
  const checkpoint = openCheckpoint(path, files)
  try {
    const configFile = `${checkpoint.folder}/config.json`
    const configs = modelConfigs(checkpoint, configFiles, files)
    const config = configs['config.json'] as Readonly<Record<string, unknown>> | undefined
    if (!config) throw new QuantizeError('bad-input', `${checkpoint.folder}: no config.json stands beside the weights`)
    const detected = detectFormat(checkpoint.tensors, configs, checkpoint.folder)
    if (!detected && config.quantization_config) throw unknownQuantization(configFile, config.quantization_config)
    const model = buildModel(config, checkpoint.tensors, configFile, detected?.linears)
    const read: ReadWeight = view => readWeight(checkpoint, view).data
    if (!detected) return { checkpoint, model, plain: model, format: undefined, read }
    return {
      checkpoint,
      model: withActivations(model, detected),
      plain: model,
      format: detected.format.name,
      read: readingQuantized(checkpoint, detected, configs, read),
    }
  } catch (error) {
    checkpoint.close()
    throw error
  }
}

/** The model with what the checkpoint declares of each linear's input, or its runtime does to it. */
const withActivations = (model: Model, { linears, format }: DetectedFormat): Model => {
  const of = (name: string): ActivationScheme | undefined => {
    const scheme = linears.get(name)
    return scheme && (scheme.activations ?? format.computesWith?.(scheme))
  }
  // a tied head is the embedding's module
  return mapActivations(model, ({ name }) => of(name), of(moduleOf(model.head.weight.tensor)))
}

/**
 * Reads quantized modules decoded. The last embedding or head is kept: its rows are asked for run by run, and a tied one serves as both.
 */
const readingQuantized = (
  checkpoint: Checkpoint,
  { format, linears }: DetectedFormat,
  configs: Configs,
  readPlain: ReadWeight,
): ReadWeight => {
  let kept: { readonly module: string; readonly values: Float32Array } | undefined
  const decoded = (module: string): Float32Array => {
    if (kept?.module === module) return kept.values
    const values = dequantize(format.unpack(module, name => checkpoint.tensors.get(name), configs))
    if (linears.get(module)!.role !== 'linear') kept = { module, values }
    return values
  }
  return view => {
    const module = moduleOf(view.tensor)
    const scheme = linears.get(module)
    if (!scheme) return readPlain(view)
    const [first, end] = view.rows ?? [0, scheme.out]
    return decoded(module).subarray(first * scheme.in, end * scheme.in)
  }
}

/** A quantization_config that no format here reads. */
export const unknownQuantization = (configFile: string, quantization: unknown): QuantizeError => {
  const method = (quantization as { quant_method?: unknown } | null)?.quant_method
  return new QuantizeError(
    'unsupported',
    `${configFile}: quantization ${method === undefined || method === null ? 'without quant_method' : shown(method)} is not read here; known: ${formatNames.join(', ')}`,
  )
}
