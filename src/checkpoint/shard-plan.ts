import type { TensorInfo } from '../contracts.ts'
import { type Dtype, dtypes } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'
import { add, tensorBytes } from '../io/size.ts'
import { singleName } from './open-checkpoint.ts'
import { type HeaderTensor, maxHeaderBytes } from './safetensors-header.ts'

/** One output file, decided before any data is there. */
export interface ShardPlan {
  /** Path within the output's folder, with `/`. */
  readonly file: string
  /** Everything before the data, e.g. the length (u64) and the padded JSON of safetensors. */
  readonly header: Uint8Array
  /** In the order of their data; offsets from the start of the file. */
  readonly tensors: readonly HeaderTensor[]
  /** Length of the whole file. */
  readonly bytes: number
}

const rank = new Map<Dtype, number>(dtypes.map((dtype, index) => [dtype, index]))

export const compareUtf8 = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b))

/** The official writer's order: widest dtype first, so that every tensor is aligned, then by name (as UTF-8 bytes). */
const officialOrder = (tensors: readonly TensorInfo[]): TensorInfo[] =>
  [...tensors].sort((a, b) => rank.get(b.dtype)! - rank.get(a.dtype)! || compareUtf8(a.name, b.name))

const jsonOf = (tensors: readonly HeaderTensor[], metadata: Readonly<Record<string, string>> | undefined): string => {
  const entries = tensors.map(({ name, dtype, shape, offset, bytes }) => {
    const entry = { dtype, shape, data_offsets: [offset, add(offset, bytes, name)] }
    return `${JSON.stringify(name)}:${JSON.stringify(entry)}`
  })
  if (metadata !== undefined) entries.unshift(`"__metadata__":${JSON.stringify(metadata)}`)
  return `{${entries.join(',')}}`
}

/** The length as u64, then the JSON padded with spaces to a multiple of 8. */
const frame = (json: string): Uint8Array => {
  const text = new TextEncoder().encode(json)
  const length = Math.ceil(text.byteLength / 8) * 8
  if (length > maxHeaderBytes)
    throw new QuantizeError(
      'unsupported',
      `a header of ${length} bytes; safetensors allows ${maxHeaderBytes}: use smaller shards`,
    )
  const framed = new Uint8Array(8 + length).fill(0x20)
  framed.set(text, 8)
  new DataView(framed.buffer).setBigUint64(0, BigInt(length), true)
  return framed
}

/** Plans one file: order, offsets and header bytes; the same bytes as the official writer's (safetensors 0.8). */
export const planFile = (
  file: string,
  tensors: readonly TensorInfo[],
  metadata?: Readonly<Record<string, string>>,
): ShardPlan => {
  let end = 0
  const placed = officialOrder(tensors).map(({ name, dtype, shape, bytes }) => {
    const offset = end
    end = add(end, bytes, file)
    return { name, dtype, shape, bytes, offset }
  })
  const header = frame(jsonOf(placed, metadata))
  const moved = placed.map(tensor => ({ ...tensor, offset: add(tensor.offset, header.byteLength, file) }))
  return { file, header, tensors: moved, bytes: add(header.byteLength, end, file) }
}

/** @throws QuantizeError bad-input when two tensors have one name */
export const checkTensors = (tensors: readonly TensorInfo[]): void => {
  const names = new Set<string>()
  for (const { name, dtype, shape, bytes } of tensors) {
    const what = `output tensor "${printable(name)}"`
    if (name === '__metadata__' || names.has(name))
      throw new QuantizeError(
        'bad-input',
        `${what}: ${names.has(name) ? 'the name comes twice' : 'the name is reserved'}`,
      )
    names.add(name)
    if (tensorBytes(shape, dtype, what) !== bytes)
      throw new RangeError(`${what}: ${dtype} [${shape}] is not ${bytes} bytes`)
  }
}

/** Greedy, in the order given; a tensor larger than a shard gets one of its own. */
export const partition = <T extends Pick<TensorInfo, 'name' | 'bytes'>>(
  tensors: readonly T[],
  shardBytes: number,
): T[][] => {
  const shards: T[][] = [[]]
  let filled = 0
  for (const tensor of tensors) {
    if (filled > 0 && add(filled, tensor.bytes, tensor.name) > shardBytes) {
      shards.push([])
      filled = 0
    }
    shards[shards.length - 1].push(tensor)
    filled = add(filled, tensor.bytes, tensor.name)
  }
  return shards
}

const shardName = (index: number, count: number): string => {
  const digits = (number: number): string => String(number).padStart(5, '0')
  return count === 1 ? singleName : `model-${digits(index + 1)}-of-${digits(count)}.safetensors`
}

/**
 * Lays tensors out in files of at most `shardBytes` bytes of tensor data (headers not counted, as transformers counts), filled
 * in the order given; a tensor never spans two. One file is model.safetensors, more are model-00001-of-0000N.safetensors.
 * @throws QuantizeError bad-input when two tensors have one name
 */
export const planShards = (tensors: readonly TensorInfo[], shardBytes: number): ShardPlan[] => {
  checkTensors(tensors)
  const shards = partition(tensors, shardBytes)
  return shards.map((shard, index) => planFile(shardName(index, shards.length), shard, { format: 'pt' }))
}
