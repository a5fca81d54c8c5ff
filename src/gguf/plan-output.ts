/** A model as GGUF files: what their header says, and where each tensor goes. */
import type { ShardPlan } from '../checkpoint/shard-plan.ts'
import type { Checkpoint, TensorInfo } from '../contracts.ts'
import { fromFloat32 } from '../dtype/convert.ts'
import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { type GgufCheckpoint, isGguf } from './gguf-checkpoint.ts'
import { metadataOf } from './model-metadata.ts'
import { type Heads, ropeFactorsName, toGgufName } from './names.ts'
import { storedRows } from './permute.ts'
import { splitKeys } from './split.ts'
import { readTokenizerFiles, tokenizerMetadata } from './tokenizer/to-gguf.ts'
import type { GgmlTypeName } from './types.ts'
import { type GgufMetadata, type GgufValue, single } from './values.ts'
import { type GgufTensorPlan, planGgufFiles } from './write-gguf.ts'

export interface GgufOutput {
  readonly shards: readonly ShardPlan[]
  /** For the report: what llama.cpp computes otherwise. */
  readonly notes: readonly string[]
}

interface Header {
  readonly metadata: GgufMetadata
  readonly ropeFactors: Float32Array | undefined
  readonly heads: Heads
  readonly notes: readonly string[]
}

const quantizationVersion = 2 // GGML_QNT_VERSION

/** Keys that say what a file is, whatever the model. */
const fileKeys = (fileType: number): ReadonlyMap<string, GgufValue> =>
  new Map([
    ['general.file_type', single('u32', fileType)],
    ['general.quantization_version', single('u32', quantizationVersion)],
  ])

/** Of a model that came as a GGUF: its own keys go along. */
const headerOfGguf = ({ gguf, heads, ropeFactors }: GgufCheckpoint, fileType: number): Header => {
  const splits: readonly string[] = Object.values(splitKeys)
  const kept = [...gguf.metadata].filter(([key]) => !splits.includes(key) && !key.startsWith('quantize.imatrix.'))
  return {
    metadata: new Map([...kept, ...fileKeys(fileType)]),
    heads: heads!, // the plan has refused other models
    notes: [],
    ropeFactors,
  }
}

const headerOf = (
  checkpoint: Checkpoint,
  config: Readonly<Record<string, unknown>>,
  outputs: readonly TensorInfo[],
  fileType: number,
  name: string,
  files: Files,
): Header => {
  const configFile = `${checkpoint.folder}/config.json`
  const { metadata, notes, ropeFactors } = metadataOf(config, configFile)
  const rows = outputs.find(tensor => toGgufName(tensor.name) === 'token_embd.weight')?.shape.at(0)
  if (rows === undefined)
    throw new QuantizeError(
      'unsupported',
      `${checkpoint.path}: has no embedding, without which llama.cpp loads no model`,
    )
  const tokenizer = tokenizerMetadata(readTokenizerFiles(checkpoint.folder, files), rows)
  const number = (key: string): number => (metadata.get(key) as { readonly value: number }).value
  return {
    metadata: new Map<string, GgufValue>([
      ...metadata,
      ['general.type', single('string', 'model')],
      ['general.name', single('string', name)],
      ...fileKeys(fileType),
      ...tokenizer.metadata,
    ]),
    heads: { heads: number('llama.attention.head_count'), kvHeads: number('llama.attention.head_count_kv') },
    notes: [...notes, ...tokenizer.notes],
    ropeFactors,
  }
}

const tensorPlan = ({ name, dtype, shape }: TensorInfo, heads: Heads): GgufTensorPlan => ({
  name: toGgufName(name)!, // the plan has refused others
  called: name,
  type: dtype as GgmlTypeName,
  shape,
  rows: storedRows(name, shape, heads, name),
})

/**
 * @param outputs under transformers' names; each dtype is a type of ggml
 * @param config config.json of a model that is no GGUF
 * @param mix its file type is for people: loaders go by the tensors
 * @param name of the model; with the mix's the file's name
 * @throws QuantizeError unsupported or bad-input: a model or a tokenizer that llama.cpp does not have
 */
export const planGgufOutput = (
  outputs: readonly TensorInfo[],
  checkpoint: Checkpoint,
  config: Readonly<Record<string, unknown>> | undefined,
  mix: { readonly name: string; readonly fileType: number },
  name: string,
  shardBytes: number,
  files: Files,
): GgufOutput => {
  const { metadata, heads, ropeFactors, notes } = isGguf(checkpoint)
    ? headerOfGguf(checkpoint, mix.fileType)
    : headerOf(checkpoint, config ?? {}, outputs, mix.fileType, name, files)
  const constants = ropeFactors
    ? [
        {
          name: ropeFactorsName,
          type: 'F32' as const,
          shape: [ropeFactors.length],
          data: fromFloat32(ropeFactors, 'F32'),
        },
      ]
    : []
  const tensors = outputs.map(tensor => tensorPlan(tensor, heads))
  return { shards: planGgufFiles(`${name}-${mix.name.toUpperCase()}`, metadata, tensors, shardBytes, constants), notes }
}
