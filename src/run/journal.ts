/**
 * What makes a run resumable: the folder `<output>.partial` beside the output. In it lie
 *   output    the folder or the file that is being written, which becomes the output by one rename;
 *   journal   what goes into the run, and then a record for each part that is finished (io/record-log.ts);
 *   lock      the process that writes;
 *   temporary activations that do not fit into memory.
 * A record is written only after its data is durable, so that whatever the journal says can be taken over after any crash.
 */
import { dirname, join } from 'node:path'
import { z } from 'zod'
import { publishFolder } from '../checkpoint/write-safetensors.ts'
import { QuantizeError } from '../errors.ts'
import type { Clock } from '../io/clock.ts'
import type { Files } from '../io/files.ts'
import { mayRun, thisProcess } from '../io/machine.ts'
import { printable } from '../io/printable.ts'
import { createLog, openLog, type RecordLog, readLog } from '../io/record-log.ts'
import type { LinearFacts } from '../report/build.ts'
import { type Inputs, inputsSchema, whatChanged } from './inputs.ts'

/** A finished linear without what its plan says. */
export type FinishedFacts = Omit<LinearFacts, 'scheme' | 'tensor' | 'tensors'>

/** A part of an output that is finished. */
export interface FinishedPart {
  readonly name: string
  /** SHA-256 (lower-case hex) of each stored tensor, by name. */
  readonly tensors: Readonly<Record<string, string>>
}

/** A linear, or a tensor that is stored beside them. */
export interface Finished extends FinishedPart {
  /** null for a tensor that is no quantized weight. */
  readonly facts: FinishedFacts | null
}

const amount = z.number().nonnegative()
const partSchema = z.strictObject({
  name: z.string(),
  tensors: z.record(z.string(), z.string().regex(/^[0-9a-f]{64}$/)),
})
const finishedSchema = partSchema.extend({
  facts: z
    .strictObject({
      method: z.enum(['gptq', 'rtn', 'repack']),
      fallback: z.string().nullable(),
      error: z.strictObject({
        weights: z.int().positive(),
        mse: amount,
        sqnrDb: z.number().nullable(),
        maxAbsError: amount,
        energy: amount,
        errorEnergy: amount,
      }),
      clippedFraction: amount,
      relativeOutputError: amount.nullable(),
      correction: z.strictObject({ shift: z.base64(), change: amount }).nullable(),
      damp: amount.nullable(),
      deadChannels: z.int().nonnegative().nullable(),
      zeroedWeights: z.int().nonnegative(),
      zeroedActivations: z.int().nonnegative(),
      seconds: amount,
    })
    .nullable(),
})

/** What a run makes, and what its journal says of each finished part. */
export interface RunKind<Part extends FinishedPart> {
  readonly makes: 'folder' | 'file'
  /** What its parts are called. */
  readonly parts: string
  readonly record: z.ZodType<Part>
}

/** A model: linears and the tensors beside them. */
export const modelRun: RunKind<Finished> = { makes: 'folder', parts: 'tensors and linears', record: finishedSchema }

/** Statistics: taps. */
export const statisticsRun: RunKind<FinishedPart> = { makes: 'file', parts: 'inputs', record: partSchema }

const headSchema = z.strictObject({ journal: z.literal(1), inputs: inputsSchema })
const lockSchema = z.strictObject({ host: z.string(), pid: z.int().positive() })

export const partialFolder = (output: string): string => `${output}.partial`
const names = {
  output: 'output',
  journal: 'journal',
  lock: 'lock',
  replaced: 'replaced',
  temporary: 'temporary',
} as const

/** A flush may take a tenth of the time, so that a run of many small linears does not wait for the disk at each. */
const flushShare = 0.1

export interface Journal<Part extends FinishedPart> {
  /** Where the output is written: the folder, or a file that is empty at first. */
  readonly output: string
  /** What its parts are called. */
  readonly parts: string
  /** A path for a file that is of no use after the run; free. */
  readonly temporary: string
  /** What earlier runs finished, by name. */
  readonly earlier: ReadonlyMap<string, Part>
  /** Says how written data is made durable: called before its records are. */
  makesDurable(sync: () => void): void
  /** Notes a finished part; it is durable after the next flush, which comes by itself when it is worth it. */
  finish(record: Part): void
  /** Makes all that is noted durable. */
  flush(): void
  /**
   * Gives the output its name, at once and complete, replacing what stands there if it may; the journal ends with it.
   * @throws QuantizeError bad-option for what stands there and may not be replaced
   */
  publish(replace: boolean): void
  /** Ends without an output: what is finished stays for the next run, if it is to be kept. Returns how many parts that is. */
  leave(keep: boolean): number
}

/** Takes the lock of a partial folder, also from a process that is gone. @throws QuantizeError bad-option when one may still run */
const takeLock = (partial: string, files: Files): void => {
  const path = join(partial, names.lock)
  if (files.stat(path)) {
    const owner = lockSchema.safeParse(parsedOrUndefined(files.readText(path, 4096)))
    if (owner.success && mayRun(owner.data))
      throw new QuantizeError(
        'bad-option',
        `${printable(partial)}: process ${owner.data.pid} on ${printable(owner.data.host)} is writing it; wait for it, or remove ${printable(path)} if it is gone`,
      )
    files.remove(path)
  }
  const descriptor = files.open(path, 'create')
  try {
    files.writeAt(descriptor, new TextEncoder().encode(JSON.stringify(thisProcess())), 0)
  } finally {
    files.close(descriptor)
  }
}

const parsedOrUndefined = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** Never remove what is not ours. @throws QuantizeError bad-option */
const checkOurs = (partial: string, files: Files): void => {
  const ours = new Set<string>(Object.values(names))
  const foreign =
    files.stat(partial)?.kind === 'folder' ? files.list(partial).find(name => !ours.has(name)) : 'no folder'
  if (foreign !== undefined)
    throw new QuantizeError(
      'bad-option',
      `${printable(partial)} is in the way and is no unfinished run (${printable(foreign)}); remove it, or give another -o`,
    )
}

/** What an earlier run left. */
interface Opened<Part> {
  readonly log: RecordLog
  readonly earlier: readonly Part[]
}

/** The journal of an earlier run; undefined when it died before its first record. @throws QuantizeError bad-option when its inputs were others */
export const reopen = <Part extends FinishedPart>(
  { record }: RunKind<Part>,
  partial: string,
  inputs: Inputs,
  files: Files,
): Opened<Part> | undefined => {
  const path = join(partial, names.journal)
  if (!files.stat(path)) return undefined
  const { log, records } = openLog(path, files)
  try {
    const [first, ...rest] = records
    if (first === undefined) {
      log.close()
      return undefined
    }
    const head = headSchema.safeParse(first)
    const changes = head.success ? whatChanged(head.data.inputs, inputs) : ['the format of its journal']
    if (changes.length > 0)
      throw new QuantizeError(
        'bad-option',
        `${printable(partial)} holds an unfinished run of other inputs (${changes.join('; ')}); --no-resume starts over, the earlier command finishes it`,
      )
    const finished = z.array(record).safeParse(rest)
    if (!finished.success)
      throw new QuantizeError('bad-input', `${printable(path)}: is damaged; --no-resume starts over`)
    return { log, earlier: finished.data }
  } catch (error) {
    log.close()
    throw error
  }
}

/** Whoever finds a journal and no output takes it for published: the journal goes first and comes last. */
const start = (makes: RunKind<never>['makes'], partial: string, inputs: Inputs, files: Files): Opened<never> => {
  const output = join(partial, names.output)
  files.remove(join(partial, names.journal))
  files.remove(output)
  if (makes === 'folder') files.makeFolder(output)
  else files.close(files.open(output, 'create'))
  const log = createLog(join(partial, names.journal), files)
  try {
    log.append([{ journal: 1, inputs }])
    files.syncFolder(partial)
    files.syncFolder(dirname(partial))
    return { log, earlier: [] }
  } catch (error) {
    log.close()
    throw error
  }
}

/** The inputs of the run that left its journal for this output, if there is one that can be read. */
export const earlierInputs = (output: string, files: Files): Inputs | undefined => {
  const path = join(partialFolder(output), names.journal)
  if (files.stat(path)?.kind !== 'file') return undefined
  return headSchema.safeParse(readLog(path, files)[0]).data?.inputs // without the lock: it may belong to a run under way
}

/** Whether the output is complete and only the end of its run was cut off: it was renamed, and its journal still stands. */
export const isPublished = (output: string, files: Files): boolean => {
  const partial = partialFolder(output)
  return (
    files.stat(output) !== undefined &&
    files.stat(join(partial, names.journal)) !== undefined &&
    files.stat(join(partial, names.output)) === undefined
  )
}

/** Ends a run that was cut off after its output had its name. False where there is none, or it had other inputs. */
export const takePublished = (output: string, inputs: Inputs, files: Files): boolean => {
  if (!isPublished(output, files)) return false
  const partial = partialFolder(output)
  checkOurs(partial, files)
  const earlier = earlierInputs(output, files)
  if (!earlier || whatChanged(earlier, inputs).length > 0) return false
  files.remove(partial)
  return true
}

/** A file takes the place of another at once. */
const publishFile = (partial: string, final: string, replace: boolean, files: Files): void => {
  if (!replace && files.stat(final))
    throw new QuantizeError(
      'bad-option',
      `${printable(final)} is there since the run began; move it, or give --overwrite`,
    )
  files.rename(partial, final)
  files.syncFolder(dirname(final))
}

/**
 * Begins a run, or goes on with one that was cut off.
 * @param resume false: whatever an earlier run left is removed
 * @throws QuantizeError bad-option when the folder is in use, is not ours, or belongs to a run of other inputs
 */
export const openJournal = <Part extends FinishedPart>(
  kind: RunKind<Part>,
  output: string,
  inputs: Inputs,
  resume: boolean,
  files: Files,
  clock: Clock,
): Journal<Part> => {
  const partial = partialFolder(output)
  const path = (name: keyof typeof names): string => join(partial, names[name])
  if (files.stat(partial)) checkOurs(partial, files)
  files.makeFolder(partial)
  takeLock(partial, files)
  let opened: Opened<Part> | undefined
  let starting = false
  try {
    opened = resume ? reopen(kind, partial, inputs, files) : undefined
    // where it was renamed and the rest not removed, the output was moved away since
    if (opened && !files.stat(path('output'))) {
      opened.log.close()
      opened = undefined
    }
    starting = !opened
    opened ??= start(kind.makes, partial, inputs, files)
    files.remove(path('temporary'))
  } catch (error) {
    files.remove(starting ? partial : path('lock'))
    throw error
  }
  const { log, earlier } = opened
  let finished = earlier.length
  let pending: Part[] = []
  let open = true
  const close = (): void => {
    if (open) log.close()
    open = false
  }
  let flushedAt = clock.now()
  let flushTime = 0
  let makeDurable = (): void => {}
  const flush = (): void => {
    if (pending.length === 0) return
    const began = clock.now()
    makeDurable()
    log.append(pending)
    finished += pending.length
    pending = []
    flushedAt = clock.now()
    flushTime = flushedAt - began
  }
  return {
    output: path('output'),
    parts: kind.parts,
    temporary: path('temporary'),
    earlier: new Map(earlier.map(record => [record.name, record])),
    makesDurable(sync) {
      makeDurable = sync
    },
    finish(record) {
      pending.push(record)
      if ((clock.now() - flushedAt) * flushShare >= flushTime) flush()
    },
    flush,
    publish(replace) {
      if (kind.makes === 'folder') {
        if (replace && files.stat(output)) files.rename(output, path('replaced'))
        publishFolder(path('output'), output, files)
      } else publishFile(path('output'), output, replace, files)
      close()
      files.remove(partial)
    },
    leave(keep) {
      close()
      const left = keep ? finished : 0
      files.remove(path('temporary'))
      files.remove(left === 0 ? partial : path('lock'))
      return left
    },
  }
}
