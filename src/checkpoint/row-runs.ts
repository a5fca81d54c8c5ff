/** Where the bytes of a tensor lie whose rows are stored in another order. Its sizes were checked when its header was read. */
import type { HeaderTensor } from './safetensors-header.ts'

/** Bytes that lie together in the file. */
export interface Run {
  /** In the file. */
  readonly position: number
  /** Within the bytes that are asked for. */
  readonly from: number
  readonly to: number
}

/** @param start and @param end bytes of the tensor, within it */
export function* runsOf({ offset, bytes, rows }: HeaderTensor, start: number, end: number): Generator<Run> {
  if (!rows || rows.length === 0) {
    yield { position: offset + start, from: 0, to: end - start }
    return
  }
  const width = bytes / rows.length
  for (let at = start; at < end; ) {
    const row = Math.floor(at / width)
    let last = row
    while (rows[last + 1] === rows[last] + 1 && (last + 1) * width < end) last++
    const stop = Math.min(end, (last + 1) * width)
    yield { position: offset + rows[row] * width + (at - row * width), from: at - start, to: stop - start }
    at = stop
  }
}

/** Runs that can be read at once with others: from `position` on, `length` bytes that hold all of them. */
export interface Span {
  readonly position: number
  readonly length: number
  readonly runs: readonly Run[]
}

/** All runs as one span, unless they lie so far apart that more than twice their bytes would be read. */
export const spansOf = (tensor: HeaderTensor, start: number, end: number): readonly Span[] => {
  const runs = [...runsOf(tensor, start, end)]
  const position = runs.reduce((least, run) => Math.min(least, run.position), Number.POSITIVE_INFINITY)
  const stop = runs.reduce((most, run) => Math.max(most, run.position + run.to - run.from), 0)
  if (runs.length < 2 || stop - position > 2 * (end - start))
    return runs.map(run => ({ position: run.position, length: run.to - run.from, runs: [run] }))
  return [{ position, length: stop - position, runs }]
}
