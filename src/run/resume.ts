/** What a run takes over from an earlier one, what it leaves to the next, and what it says of both. */
import type { ShardWriter } from '../checkpoint/write-safetensors.ts'
import type { Checkpoint } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import type { Report } from '../progress.ts'
import type { RunContext } from './context.ts'
import { checkUnchanged, type Inputs } from './inputs.ts'
import { type FinishedPart, type Journal, openJournal, partialFolder, type RunKind } from './journal.ts'

/** What to do with what stands where the output goes. */
export interface OutputRules {
  /** Replace an output that exists. */
  readonly overwrite: boolean
  /** Go on with a run that was cut off. */
  readonly resume: boolean
}

/**
 * Parts that the journal says are finished, as far as their data is still what was written.
 * @param tensorsOf names of a part's tensors; undefined for what is no part of this output
 */
export const takeOver = <Part extends FinishedPart>(
  { earlier, parts }: Journal<Part>,
  tensorsOf: (part: Part) => readonly string[] | undefined,
  writer: Pick<ShardWriter, 'adopt'>,
  progress: Report,
): ReadonlyMap<string, Part> => {
  const good = [...earlier.values()].filter(part => {
    const expected = tensorsOf(part)
    if (expected?.length !== Object.keys(part.tensors).length) return false
    return expected.every(name => writer.adopt(name, part.tensors[name]))
  })
  if (earlier.size > 0)
    progress({ kind: 'note', text: `going on: ${good.length} ${parts} were finished by an earlier run` })
  if (good.length < earlier.size)
    progress({ kind: 'note', text: `${earlier.size - good.length} of them are damaged and done again` })
  return new Map(good.map(part => [part.name, part]))
}

/** What a run is begun with. */
interface Task<Part extends FinishedPart> {
  readonly kind: RunKind<Part>
  readonly output: string
  readonly inputs: Inputs
  /** What is read. */
  readonly checkpoint: Checkpoint
  readonly rules: OutputRules
}

/**
 * Fills what a journal's output holds, and gives it its name. When that fails, what is finished stays, unless the same command would fail again.
 * @throws QuantizeError as `fill` and a journal do; bad-input when a file of the model was changed meanwhile
 */
export const runInJournal = async <Part extends FinishedPart, Result>(
  { kind, output, inputs, checkpoint, rules }: Task<Part>,
  { files, clock, progress, signal }: Pick<RunContext, 'files' | 'clock' | 'progress' | 'signal'>,
  fill: (journal: Journal<Part>) => Promise<Result>,
): Promise<Result> => {
  const journal = openJournal(kind, output, inputs, rules.resume, files, clock)
  try {
    const result = await fill(journal)
    checkUnchanged(inputs, checkpoint, files)
    signal.throwIfAborted()
    journal.publish(rules.overwrite)
    return result
  } catch (error) {
    leaveRun(journal, output, error, progress)
    throw error
  }
}

/** Ends a run that failed. */
const leaveRun = <Part extends FinishedPart>(
  journal: Journal<Part>,
  output: string,
  error: unknown,
  progress: Report,
): void => {
  const finished = journal.leave(!(error instanceof QuantizeError && error.lasting))
  if (finished > 0)
    progress({
      kind: 'note',
      text: `${finished} finished ${journal.parts} are in ${partialFolder(output)}: the same command goes on from there`,
    })
}
