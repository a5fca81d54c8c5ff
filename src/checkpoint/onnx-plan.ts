/**
 * Where the tensors of an ONNX model lie: external data files beside the graph, named as transformers.js looks for them
 * (packages/transformers/src/utils/model-loader.js): `onnx/model_q4.onnx` with `onnx/model_q4.onnx_data`, `…_data_1`, `…_data_2`.
 */
import type { TensorInfo } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { add } from '../io/size.ts'
import type { HeaderTensor } from './safetensors-header.ts'
import { checkTensors, compareUtf8, partition, type ShardPlan } from './shard-plan.ts'

/** The folder of a repository in which transformers.js looks for graphs. */
export const onnxFolder = 'onnx'

/** Offsets that can be mapped into memory. */
const alignment = 4096

/** A browser reads each file into one buffer, which is safe up to 2 GiB. */
const mostFileBytes = 2_000_000_000

const mostFiles = 100 // transformers.js: MAX_EXTERNAL_DATA_CHUNKS

const none = new Uint8Array(0)

/** The name of the codes of a linear of so many bits: `<module>.weight_Q4`. */
export const codesName = /\.weight_Q(2|4|8)$/

/** Whether the graph computes in half precision: when no float tensor is wider. */
export const isHalf = (tensors: readonly TensorInfo[]): boolean => !tensors.some(({ dtype }) => dtype === 'F32')

/** transformers.js's dtype of a model: that of most codes. There is no name for 8 bits in half precision. */
export const onnxDtype = (tensors: readonly TensorInfo[]): string => {
  const bytes = new Map<string, number>()
  for (const { name, bytes: size } of tensors) {
    const bits = codesName.exec(name)?.[1]
    if (bits !== undefined) bytes.set(bits, (bytes.get(bits) ?? 0) + size)
  }
  const [bits] = [...bytes].sort(([a, x], [b, y]) => y - x || Number(a) - Number(b))[0] ?? []
  if (bits === undefined) return isHalf(tensors) ? 'fp16' : 'fp32'
  return isHalf(tensors) && bits !== '8' ? `q${bits}f16` : `q${bits}`
}

const suffixes: Readonly<Record<string, string>> = { fp32: '', q8: '_quantized' }

/** The graph's file for a dtype of transformers.js: `model_q4.onnx`. */
export const graphFile = (dtype: string): string => `model${suffixes[dtype] ?? `_${dtype}`}.onnx`

const placed = (tensors: readonly TensorInfo[], file: string): { tensors: HeaderTensor[]; bytes: number } => {
  let end = 0
  const all = tensors.map(({ name, dtype, shape, bytes }) => {
    const offset = Math.ceil(end / alignment) * alignment
    end = add(offset, bytes, file)
    return { name, dtype, shape, bytes, offset }
  })
  return { tensors: all, bytes: end }
}

/**
 * Lays tensors out in external data files of at most `shardBytes` bytes of tensor data, by name: the order given is of no effect.
 * Between two tensors lie zeros, so that each begins at a multiple of 4096.
 * @throws QuantizeError bad-input when two tensors have one name, bad-option for more files than transformers.js reads
 */
export const planExternalData = (
  tensors: readonly TensorInfo[],
  shardBytes: number = mostFileBytes,
): readonly ShardPlan[] => {
  checkTensors(tensors)
  const sorted = [...tensors].sort((a, b) => compareUtf8(a.name, b.name))
  const shards = partition(sorted, Math.min(shardBytes, mostFileBytes))
  if (shards.length > mostFiles)
    throw new QuantizeError(
      'bad-option',
      `${shards.length} files of external data; transformers.js reads at most ${mostFiles}: use a larger --shard-size`,
    )
  const base = `${onnxFolder}/${graphFile(onnxDtype(tensors))}_data`
  return shards.map((shard, index) => {
    const file = index === 0 ? base : `${base}_${index}`
    return { file, header: none, ...placed(shard, file) }
  })
}
