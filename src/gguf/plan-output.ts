/** A model as GGUF files: what their header says, and where each tensor goes. */
import type { ShardPlan } from '../checkpoint/shard-plan.ts'
import type { Checkpoint, TensorInfo } from '../contracts.ts'
import { fromFloat32 } from '../dtype/convert.ts'
import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { isGguf } from './gguf-checkpoint.ts'
import { configOf } from './model-config.ts'
import { metadataOf } from './model-metadata.ts'
import { type Heads, permutedHeads, ropeFactorsName, toGgufName } from './names.ts'
import { interleavedRows, inverseOrder } from './permute.ts'
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
  readonly ropeFactors?: Float32Array
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
const headerOfGguf = (checkpoint: Checkpoint, fileType: number): Header | undefined => {
  if (!isGguf(checkpoint)) return undefined
  const { metadata, tensors, path } = checkpoint.gguf
  const factors = tensors.get(ropeFactorsName)
  const { num_attention_heads: heads, num_key_value_heads: kvHeads } = configOf({ file: path, metadata, tensors })
  const splits: readonly string[] = Object.values(splitKeys)
  const kept = [...metadata].filter(([key]) => !splits.includes(key) && !key.startsWith('quantize.imatrix.'))
  return {
    metadata: new Map([...kept, ...fileKeys(fileType)]),
    heads: { heads, kvHeads },
    notes: [],
    ...(factors ? { ropeFactors: new Float32Array(factors.read().slice().buffer) } : {}),
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
    ...(ropeFactors ? { ropeFactors } : {}),
  }
}

const tensorPlan = ({ name, dtype, shape }: TensorInfo, heads: Heads): GgufTensorPlan => {
  const count = permutedHeads(name, heads)
  return {
    name: toGgufName(name)!, // the plan has refused others
    called: name,
    type: dtype as GgmlTypeName,
    shape,
    ...(count === undefined ? {} : { rows: inverseOrder(interleavedRows(shape[0] ?? 0, count, name)) }),
  }
}

/**
 * @param outputs under transformers' names; each dtype is a type of ggml
 * @param config config.json of a model that is no GGUF
 * @param fileType general.file_type, for people: loaders go by the tensors
 * @param named the model, and the mix: together the file's name
 * @throws QuantizeError unsupported or bad-input: a model or a tokenizer that llama.cpp does not have
 */
export const planGgufOutput = (
  outputs: readonly TensorInfo[],
  checkpoint: Checkpoint,
  config: Readonly<Record<string, unknown>> | undefined,
  fileType: number,
  { name, mix }: { readonly name: string; readonly mix: string },
  shardBytes: number,
  files: Files,
): GgufOutput => {
  const { metadata, heads, ropeFactors, notes } =
    headerOfGguf(checkpoint, fileType) ?? headerOf(checkpoint, config ?? {}, outputs, fileType, name, files)
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
  return { shards: planGgufFiles(`${name}-${mix.toUpperCase()}`, metadata, tensors, shardBytes, constants), notes }
}
