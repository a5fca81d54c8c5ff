/** What a checkpoint holds, from its headers and config files alone: no tensor data is read. */
import { modelConfigs } from './checkpoint/beside.ts'
import type { Checkpoint, LinearScheme, TensorInfo } from './contracts.ts'
import { configFiles, detectFormat } from './format/index.ts'
import type { Files } from './io/files.ts'

export interface Inspection {
  readonly path: string
  readonly files: readonly string[]
  readonly modelType: string | null
  readonly tensors: readonly TensorInfo[]
  /** Stored elements; a word that packs eight codes counts as one. */
  readonly elements: number
  readonly bytes: number
  readonly dtypes: Readonly<Record<string, { readonly tensors: number; readonly bytes: number }>>
  readonly quantization: {
    readonly format: string
    readonly linears: number
    /** Weights that are quantized, and bits for each of them: codes, scales, zeros, indexes. */
    readonly weights: number
    readonly bitsPerWeight: number
    readonly schemes: readonly {
      readonly grid: string
      readonly bits: number
      readonly symmetric: boolean
      readonly group: string
      readonly linears: number
    }[]
  } | null
  readonly metadata: Readonly<Record<string, string>>
}

export const inspectCheckpoint = (checkpoint: Checkpoint, files: Files): Inspection => {
  const configs = modelConfigs(checkpoint, configFiles, files)
  const config = configs['config.json'] as Readonly<Record<string, unknown>> | undefined
  const tensors = [...checkpoint.tensors.values()].map(({ name, dtype, shape, bytes }) => ({
    name,
    dtype,
    shape,
    bytes,
  }))
  const dtypes: Record<string, { tensors: number; bytes: number }> = {}
  for (const { dtype, bytes } of tensors) {
    dtypes[dtype] ??= { tensors: 0, bytes: 0 }
    dtypes[dtype].tensors++
    dtypes[dtype].bytes += bytes
  }
  const detected = detectFormat(checkpoint.tensors, configs, checkpoint.folder)
  return {
    path: checkpoint.path,
    files: checkpoint.files,
    modelType: typeof config?.model_type === 'string' ? config.model_type : null,
    tensors,
    elements: tensors.reduce((total, { shape }) => total + shape.reduce((product, size) => product * size, 1), 0),
    bytes: tensors.reduce((total, { bytes }) => total + bytes, 0),
    dtypes,
    quantization: detected ? describeQuantization(detected.format.name, detected.linears, checkpoint) : null,
    metadata: checkpoint.metadata,
  }
}

/** The quantized module that a tensor belongs to: its name up to some dot; '' for biases and what belongs to none. */
const moduleOf = (tensor: string, linears: ReadonlyMap<string, LinearScheme>): string => {
  for (let dot = tensor.indexOf('.'); dot >= 0; dot = tensor.indexOf('.', dot + 1))
    if (linears.has(tensor.slice(0, dot))) return tensor.slice(dot) === '.bias' ? '' : tensor.slice(0, dot)
  return ''
}

const describeQuantization = (format: string, linears: ReadonlyMap<string, LinearScheme>, { tensors }: Checkpoint) => {
  const schemes = new Map<string, { grid: string; bits: number; symmetric: boolean; group: string; linears: number }>()
  let weights = 0
  let bytes = 0
  for (const tensor of tensors.values()) if (linears.has(moduleOf(tensor.name, linears))) bytes += tensor.bytes
  for (const { out, in: inputs, grid, bits, symmetric, group } of linears.values()) {
    weights += out * inputs
    const key = `${grid} ${bits} ${symmetric} ${group}`
    const scheme = schemes.get(key) ?? { grid, bits, symmetric, group: String(group), linears: 0 }
    scheme.linears++
    schemes.set(key, scheme)
  }
  return {
    format,
    linears: linears.size,
    weights,
    bitsPerWeight: (8 * bytes) / weights,
    schemes: [...schemes.values()],
  }
}
