import { dirname, join } from 'node:path'
import type { TensorSource } from '../contracts.ts'
import type { Files } from '../io/files.ts'
import { add } from '../io/size.ts'
import { Coverage } from './coverage.ts'
import { indexName } from './open-checkpoint.ts'
import { type Run, spansOf } from './row-runs.ts'
import type { HeaderTensor } from './safetensors-header.ts'
import type { ShardPlan } from './shard-plan.ts'
import { hashTensor } from './tensor-pieces.ts'
import { type OpenFile, openFile, tensorSource } from './tensor-source.ts'

export { planShards, type ShardPlan } from './shard-plan.ts'

/** Writes planned tensors in any order and in any pieces; memory does not grow with them. */
export interface ShardWriter {
  /** Puts `data` at byte `start` of the tensor's place. @throws RangeError past its end or for a name not planned */
  write(name: string, data: Uint8Array, start?: number): void
  /** The tensor as the file now holds it, by a descriptor of its own. Its `read` throws for bytes not yet written. */
  read(name: string): TensorSource
  /** Takes a tensor that an earlier run left in its place, if its bytes have this SHA-256 (lower-case hex). */
  adopt(name: string, sha256: string): boolean
  /** Makes all that was written so far durable. */
  sync(): void
  /** Checks that every byte of every tensor was written, syncs the files, and writes the index where there are several safetensors files. */
  finish(): void
  /** Lets go of every file; to call in any case, more than once if need be. The sources of `read` end with it. */
  close(): void
}

interface Shard {
  readonly path: string
  /** For writing; undefined once closed. */
  descriptor: number | undefined
  /** Written to since it was last synced. */
  dirty: boolean
  reader: OpenFile | undefined
}

interface Slot {
  readonly tensor: HeaderTensor
  readonly shard: Shard
  readonly written: Coverage
}

/** model.safetensors.index.json as transformers reads it: the sum of tensor bytes, and the file of each name, by name. */
export const shardIndex = (shards: readonly ShardPlan[]): string => {
  const places = shards.flatMap(({ file, tensors }) => tensors.map(({ name, bytes }) => ({ name, file, bytes })))
  const total = places.reduce((sum, { bytes }) => add(sum, bytes, indexName), 0)
  const sorted = places.sort((a, b) => (a.name < b.name ? -1 : 1)).map(({ name, file }) => [name, file] as const)
  const index = { metadata: { total_size: total }, weight_map: Object.fromEntries(sorted) }
  return `${JSON.stringify(index, null, 2)}\n`
}

/** Runs that fill a span, as it is stored. */
const inOrder = (data: Uint8Array, position: number, length: number, runs: readonly Run[]) => {
  if (runs.length === 1) return { position, bytes: data }
  const bytes = new Uint8Array(length)
  for (const run of runs) bytes.set(data.subarray(run.from, run.to), run.position - position)
  return { position, bytes }
}

/** Where the last tensor ends. */
const lastByte = ({ header, tensors }: ShardPlan): number =>
  tensors.reduce((end, { offset, bytes }) => Math.max(end, offset + bytes), header.byteLength)

const isSafetensors = ({ file }: ShardPlan): boolean => file.endsWith('.safetensors')

const closeShard = (files: Files, shard: Shard): void => {
  const { descriptor } = shard
  shard.descriptor = undefined
  if (descriptor !== undefined) files.close(descriptor)
}

/** Closes all of them, whatever one of them throws; then throws the first. */
const closeAll = (closers: readonly (() => void)[]): void => {
  const errors: unknown[] = []
  for (const close of closers)
    try {
      close()
    } catch (error) {
      errors.push(error)
    }
  if (errors.length > 0) throw errors[0]
}

const createShards = (folder: string, plans: readonly ShardPlan[], files: Files, slots: Map<string, Slot>): Shard[] => {
  const shards: Shard[] = []
  try {
    for (const plan of plans) {
      const path = join(folder, plan.file)
      if (plan.file.includes('/')) files.makeFolder(dirname(path))
      const there = files.stat(path) !== undefined
      const shard: Shard = {
        path,
        descriptor: files.open(path, there ? 'update' : 'create'),
        dirty: true,
        reader: undefined,
      }
      shards.push(shard)
      if (there || plan.bytes > lastByte(plan)) files.truncate(shard.descriptor!, plan.bytes) // what follows the last tensor is zeros
      files.writeAt(shard.descriptor!, plan.header, 0)
      for (const tensor of plan.tensors) slots.set(tensor.name, { tensor, shard, written: new Coverage(tensor.bytes) })
    }
    return shards
  } catch (error) {
    closeAll(shards.map(shard => () => closeShard(files, shard)))
    throw error
  }
}

const writtenSource = (files: Files, { tensor, shard, written }: Slot): TensorSource => {
  shard.reader ??= openFile(files, shard.path)
  const source = tensorSource(files, shard.reader, tensor)
  const read: TensorSource['read'] = (start = 0, end = tensor.bytes, into) => {
    if (!written.has(start, end)) throw new RangeError(`bytes ${start} to ${end} of ${tensor.name} are not all written`)
    return source.read(start, end, into)
  }
  return { ...source, read }
}

/**
 * Creates the planned files in a folder that exists (a temporary one: see publishFolder), and the folders in their names, headers first. Files of these names are taken
 * as those of an earlier run of the same plan: what of them is still good is for `adopt` to find out.
 * @throws QuantizeError exhausted when the disk is full, bad-input when a file cannot be made
 */
export const createShardWriter = (folder: string, plans: readonly ShardPlan[], files: Files): ShardWriter => {
  const slots = new Map<string, Slot>()
  const shards = createShards(folder, plans, files, slots)
  const slotOf = (name: string): Slot => {
    const slot = slots.get(name)
    if (slot === undefined) throw new RangeError(`no tensor "${name}" is planned`)
    return slot
  }
  return {
    write(name, data, start = 0) {
      const { tensor, shard, written } = slotOf(name)
      const end = start + data.byteLength
      if (!Number.isSafeInteger(start) || start < 0 || end > tensor.bytes)
        throw new RangeError(`bytes ${start} to ${end} do not fit the ${tensor.bytes} of ${name}`)
      if (shard.descriptor === undefined) throw new Error(`${shard.path} was closed`)
      for (const { position, length, runs } of spansOf(tensor, start, end)) {
        const isWhole = runs.reduce((sum, { from, to }) => sum + to - from, 0) === length
        for (const piece of isWhole
          ? [inOrder(data, position, length, runs)]
          : runs.map(run => ({ ...run, bytes: data.subarray(run.from, run.to) })))
          files.writeAt(shard.descriptor, piece.bytes, piece.position)
      }
      shard.dirty = true
      written.add(start, end)
    },
    read: name => writtenSource(files, slotOf(name)),
    adopt(name, sha256) {
      const slot = slotOf(name)
      const { tensor, shard, written } = slot
      shard.reader ??= openFile(files, shard.path)
      if (hashTensor(tensorSource(files, shard.reader, tensor)) !== sha256) return false
      written.add(0, tensor.bytes)
      return true
    },
    sync() {
      for (const shard of shards) {
        if (!shard.dirty || shard.descriptor === undefined) continue
        files.sync(shard.descriptor)
        shard.dirty = false
      }
    },
    finish() {
      for (const [name, { written }] of slots)
        if (written.firstGap() !== undefined) throw new Error(`byte ${written.firstGap()} of ${name} was never written`)
      for (const shard of shards) {
        if (shard.descriptor === undefined) throw new Error(`${shard.path} was closed`)
        files.sync(shard.descriptor)
        closeShard(files, shard)
      }
      if (plans.length > 1 && plans.every(isSafetensors)) files.writeText(join(folder, indexName), shardIndex(plans))
      for (const inside of new Set([...shards.map(({ path }) => dirname(path)), folder])) files.syncFolder(inside)
    },
    close() {
      closeAll(shards.flatMap(shard => [() => closeShard(files, shard), () => shard.reader?.close()]))
    },
  }
}

/**
 * Gives a finished folder its final name, which must be free: until this rename nothing stands under it, and after it
 * the whole checkpoint does, even if the power fails.
 */
export const publishFolder = (partial: string, final: string, files: Files): void => {
  files.syncFolder(partial)
  files.rename(partial, final)
  files.syncFolder(dirname(final))
}
