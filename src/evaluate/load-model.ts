import { openCheckpoint } from '../checkpoint/open-checkpoint.ts'
import { readConfigs } from '../checkpoint/read-json.ts'
import { readWeight } from '../checkpoint/read-weight.ts'
import type { Checkpoint, Model } from '../contracts.ts'
import type { ReadWeight } from '../engine/ort/activations.ts'
import { QuantizeError } from '../errors.ts'
import { configFiles, detectFormat } from '../format/index.ts'
import type { Files } from '../io/files.ts'
import { shown } from '../model/config.ts'
import { buildModel } from '../model/graph.ts'
import { dequantize } from '../quantize/dequantize.ts'

/** A model as it lies on disk, plain or quantized. */
export interface LoadedModel {
  readonly checkpoint: Checkpoint
  readonly model: Model
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
    const configs = readConfigs(checkpoint.folder, configFiles, files)
    const config = configs['config.json'] as Readonly<Record<string, unknown>> | undefined
    if (!config) throw new QuantizeError('bad-input', `${checkpoint.folder}: no config.json stands beside the weights`)
    const detected = detectFormat(checkpoint.tensors, configs, checkpoint.folder)
    if (!detected && config.quantization_config) throw unknownQuantization(configFile, config.quantization_config)
    const model = buildModel(config, checkpoint.tensors, configFile, detected?.linears)
    const read: ReadWeight = view => {
      const module = view.tensor.replace(/\.weight$/, '')
      if (!detected?.linears.has(module)) return readWeight(checkpoint, view).data
      return dequantize(detected.format.unpack(module, name => checkpoint.tensors.get(name), configs))
    }
    return { checkpoint, model, format: detected?.format.name, read }
  } catch (error) {
    checkpoint.close()
    throw error
  }
}

/** A quantization_config that no format here reads. */
export const unknownQuantization = (configFile: string, quantization: unknown): QuantizeError => {
  const method = (quantization as { quant_method?: unknown } | null)?.quant_method
  return new QuantizeError(
    'unsupported',
    `${configFile}: quantization ${method === undefined || method === null ? 'without quant_method' : shown(method)} is not read here; known: gptq`,
  )
}
