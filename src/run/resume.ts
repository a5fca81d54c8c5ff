/** What a run takes over from an earlier one, what it leaves to the next, and what it says of both. */
import type { ShardWriter } from '../checkpoint/write-safetensors.ts'
import { QuantizeError } from '../errors.ts'
import type { Report } from '../progress.ts'
import { type FinishedPart, type Journal, partialFolder } from './journal.ts'

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

/** Ends a run that failed: what is finished stays, unless the same command would fail again. */
export const leaveRun = <Part extends FinishedPart>(
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
