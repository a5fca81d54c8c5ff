/** An importance matrix beside the linears that it is for. */
import type { LinearScheme } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { printable } from '../io/printable.ts'
import { readImatrix } from './imatrix.ts'
import { toGgufName } from './names.ts'

export interface Weightings {
  /** [in] of a linear, by its name; undefined: it has no entry. */
  readonly of: (linear: string) => Float32Array | undefined
  /** For the report: which have none. */
  readonly notes: readonly string[]
}

/** @throws QuantizeError bad-input for a file that is none, for entries of another width, or when none is of this model */
export const weightingsOf = (path: string, linears: readonly LinearScheme[], files: Files): Weightings => {
  const { entries } = readImatrix(path, files)
  const entryOf = (linear: string): Float32Array | undefined =>
    entries.get(toGgufName(`${linear}.weight`) ?? '')?.values
  for (const { name, in: inputs } of linears) {
    const found = entryOf(name)
    if (found && found.length !== inputs)
      throw new QuantizeError(
        'bad-input',
        `${printable(path)}: has ${found.length} importances for ${name}, which has ${inputs} inputs; is it of this model?`,
      )
  }
  const without = linears.filter(({ name }) => !entryOf(name)).map(({ name }) => name)
  if (without.length === linears.length)
    throw new QuantizeError('bad-input', `${printable(path)}: has no entry for any weight of this model`)
  const note = `--imatrix has no entry for ${without.length} of ${linears.length} weights, which are rounded without: ${without.slice(0, 3).join(', ')}${without.length > 3 ? ' …' : ''}`
  return { of: entryOf, notes: without.length > 0 ? [note] : [] }
}
