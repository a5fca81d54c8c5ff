/** The folder that becomes the output: its weight files, what an earlier run left in them, and what is taken down in the journal. */
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { type FolderFiles, folderFiles } from '../checkpoint/carry.ts'
import { castSource } from '../checkpoint/cast-source.ts'
import { planExternalData } from '../checkpoint/onnx-plan.ts'
import { forEachPiece, hashTensor } from '../checkpoint/tensor-pieces.ts'
import { createShardWriter, planShards, type ShardPlan, type ShardWriter } from '../checkpoint/write-safetensors.ts'
import type { Checkpoint, TensorSource } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { planGgufOutput } from '../gguf/plan-output.ts'
import type { Files } from '../io/files.ts'
import { printable } from '../io/printable.ts'
import { copyFile } from '../io/whole-file.ts'
import type { Plan } from '../plan.ts'
import type { RunContext } from './context.ts'
import type { Finished, Journal } from './journal.ts'
import { takeOver } from './resume.ts'

/** How tensors are laid out in files; and for the report, what the files say otherwise than the source. */
interface Layout {
  readonly shards: readonly ShardPlan[]
  readonly notes: readonly string[]
}

/** @throws QuantizeError as the planning of files does */
const layoutOf = (
  { outputs, recipe, format }: Plan,
  checkpoint: Checkpoint,
  source: SourceFacts,
  files: Files,
): Layout => {
  const { container, mix } = format.facts
  const { shardBytes } = recipe
  if (container === 'onnx') return { shards: planExternalData(outputs, shardBytes), notes: [] }
  if (!mix) return { shards: planShards(outputs, shardBytes), notes: [] }
  return planGgufOutput(outputs, checkpoint, source.config, mix, source.name, shardBytes, files)
}

/** Of the model that is read. */
export interface SourceFacts {
  readonly name: string
  /** config.json; undefined for a lone file. */
  readonly config: Readonly<Record<string, unknown>> | undefined
}

export interface Output {
  readonly folder: string
  readonly writer: ShardWriter
  /** What an earlier run finished and is still in its place, by name. */
  readonly earlier: ReadonlyMap<string, Finished>
  /** Files of the model that stay behind. */
  readonly left: readonly string[]
  /** What the output says otherwise than the source. */
  readonly notes: readonly string[]
  /** Takes a finished tensor or linear down in the journal. */
  finish(record: Finished): void
  /** Copies a tensor in pieces, as it is or from a source that stands for it, unless an earlier run did. */
  pass(name: string, source?: TensorSource): void
  /** Makes what is finished durable, whatever comes then. */
  flush(): void
  /**
   * Syncs the weights, reads them back, and adds the other files.
   * @throws QuantizeError exhausted when a tensor is not what was written
   */
  complete(configs: ReadonlyMap<string, string | Uint8Array>): void
  close(): void
}

/**
 * The other files of a folder with a config.json go along.
 * @throws QuantizeError exhausted when the output cannot fit where it goes
 */
export const openOutput = (
  plan: Plan,
  checkpoint: Checkpoint,
  source: SourceFacts,
  journal: Journal<Finished>,
  context: RunContext,
): Output => {
  const { files, progress } = context
  const { output: folder } = journal
  const { shards, notes } = layoutOf(plan, checkpoint, source, files)
  const isAlone = plan.format.facts.container === 'gguf' // one file holds all that its loaders read
  const beside: FolderFiles =
    source.config && !checkpoint.embedded && !isAlone
      ? folderFiles(checkpoint.folder, checkpoint.files, files)
      : { carried: [], left: [] }
  const embedded = isAlone ? [] : [...(checkpoint.embedded ?? [])].map(([name, text]) => [name, text()] as const)
  clearExcept(folder, new Set(shards.map(({ file }) => file.split('/')[0])), files)
  checkSpace(folder, shards, checkpoint, beside.carried, context)
  const writer = createShardWriter(folder, shards, files)
  journal.makesDurable(writer.sync)
  try {
    const earlier = takeEarlier(plan, journal, writer, progress)
    const stored = new Map(plan.passed.map(({ name, stored }) => [name, stored.dtype]))
    const sha256 = new Map([...earlier.values()].flatMap(({ tensors }) => Object.entries(tensors)))
    const finish: Output['finish'] = record => {
      for (const [name, sum] of Object.entries(record.tensors)) sha256.set(name, sum)
      journal.finish(record)
    }
    return {
      folder,
      writer,
      earlier,
      left: beside.left,
      notes,
      finish,
      pass: (name, source = checkpoint.tensors.get(name)!) => {
        if (!earlier.has(name)) finish(passTensor(castSource(source, stored.get(name)!), writer))
      },
      flush: journal.flush,
      complete(configs) {
        writer.finish()
        checkWritten(plan, writer, sha256)
        for (const [name, content] of [...embedded, ...configs]) files.writeText(join(folder, name), content)
        for (const name of beside.carried) copyFile(join(checkpoint.folder, name), join(folder, name), files)
      },
      close: writer.close,
    }
  } catch (error) {
    writer.close()
    throw error
  }
}

/** Removes what an earlier run wrote beside its weights: it is written again. */
const clearExcept = (folder: string, keep: ReadonlySet<string>, files: Files): void => {
  for (const name of files.list(folder)) if (!keep.has(name)) files.remove(join(folder, name))
}

/** Space that configs, the index and the report may take. */
const textBytes = 2 ** 20

/** @throws QuantizeError exhausted when the output cannot fit where it goes */
const checkSpace = (
  folder: string,
  shards: readonly ShardPlan[],
  checkpoint: Checkpoint,
  carried: readonly string[],
  { files, memory }: RunContext,
): void => {
  const sizeOf = (path: string): number => files.stat(path)?.bytes ?? 0
  // what an earlier run wrote may have holes: only what lacks for certain is asked for
  const shardBytes = shards.map(({ file, bytes }) => Math.max(0, bytes - sizeOf(join(folder, file))))
  const needed = [...shardBytes, ...carried.map(name => sizeOf(join(checkpoint.folder, name)))].reduce(
    (sum, bytes) => sum + bytes,
    textBytes + memory.spillBytes,
  )
  const free = files.freeBytes(folder)
  if (free < needed)
    throw new QuantizeError(
      'exhausted',
      `${printable(folder)}: the output takes ${needed} more bytes, and ${free} are free; free some space or choose another place`,
    )
}

/** What the journal says is finished, as far as its data is still what was written. */
const takeEarlier = (
  plan: Plan,
  journal: Journal<Finished>,
  writer: ShardWriter,
  progress: RunContext['progress'],
): ReadonlyMap<string, Finished> => {
  const planned = new Map<string, readonly string[]>()
  for (const { name, tensors } of plan.linears)
    planned.set(
      name,
      tensors.map(tensor => tensor.name),
    )
  for (const { name } of plan.passed) planned.set(name, [name])
  const linears = new Set(plan.linears.map(({ name }) => name))
  const tensorsOf = ({ name, facts }: Finished) =>
    (facts !== null) === linears.has(name) ? planned.get(name) : undefined
  return takeOver(journal, tensorsOf, writer, progress)
}

const checkWritten = (
  { outputs }: Plan,
  writer: ShardWriter,
  sha256: ReadonlyMap<string, string | Uint8Array>,
): void => {
  for (const { name } of outputs) {
    const source = writer.read(name)
    if (hashTensor(source) !== sha256.get(name))
      throw new QuantizeError(
        'exhausted',
        `${printable(source.file)}: tensor ${printable(name)} reads back differently from what was written: the disk or the memory fails`,
      )
  }
}

/** Copies a tensor into its place. */
const passTensor = (source: TensorSource, writer: ShardWriter): Finished => {
  const { name } = source
  const hash = createHash('sha256')
  forEachPiece(source, (piece, start) => {
    writer.write(name, piece, start)
    hash.update(piece)
  })
  return { name, tensors: { [name]: hash.digest('hex') }, facts: null }
}
