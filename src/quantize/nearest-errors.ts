/** What rounding to nearest leaves of weights that are changed before, for many changes at once: no code leaves the workers. */
import { allocateAll, freeAll } from '../engine/kernel/heap.ts'
import { columnBytes, panelRows } from '../engine/kernel/layout.ts'
import { notFinite, panelKernel, readRows, storedBytes } from '../engine/kernel/panels.ts'
import type { Call, Kernels } from '../engine/kernel/pool.ts'
import type { GroupParameters } from './encoder.ts'
import {
  collectParameters,
  fitCall,
  gridRecord,
  type LinearJob,
  type Prepared,
  prepare,
  standsByGroup,
  writeTables,
} from './quantize-linear.ts'

/**
 * What is done to weights. `scale`: columns are multiplied by factors [in] before they are rounded, and divided by them after. `cut`: ranges
 * are those of weights cut to a share of the largest magnitude of their group; it is the weights themselves that are rounded.
 */
export type Change =
  | { readonly name: 'none' }
  | { readonly name: 'scale'; readonly factors: Float32Array }
  | { readonly name: 'cut'; readonly share: number }

/** Some changes of some rows. */
interface Piece {
  readonly firstRow: number
  readonly rows: number
  readonly firstChange: number
  readonly changes: number
}

/** Change under change, each with its rows. Valid until the visit is over. */
export interface NearestErrors extends Piece, GroupParameters {
  /** [changes · rows, in]: original minus decoded weights. Scales and offsets are [changes · rows, G]. */
  readonly delta: Float32Array
}

/** Rows that a visitor gets at once, of one change and of several together: bounds the memory. */
const [tileRows, stackRows] = [512, 1024]

/** All changes of the first rows, then of the next. The first piece is the largest. */
const piecesOf = (out: number, count: number): Piece[] => {
  const pieces: Piece[] = []
  const stacked = Math.max(1, Math.floor(stackRows / Math.min(out, tileRows)))
  for (let firstRow = 0; firstRow < out; firstRow += tileRows)
    for (let firstChange = 0; firstChange < count; firstChange += stacked) {
      const [rows, changes] = [Math.min(tileRows, out - firstRow), Math.min(stacked, count - firstChange)]
      pieces.push({ firstRow, rows, firstChange, changes })
    }
  return pieces
}

/**
 * The workers compute a piece while the one before is visited.
 * @param job of nearest rounding, whose groups stand by themselves (standsByGroup)
 * @param visit takes the pieces in order
 * @throws QuantizeError as quantizeLinear, but for scales beyond their dtype
 */
export const nearestErrors = async (
  kernels: Kernels,
  job: LinearJob,
  changes: readonly Change[],
  visit: (errors: NearestErrors) => Promise<void>,
): Promise<void> => {
  if (!standsByGroup(job)) throw new Error(`${job.name}: its groups have parameters in common`)
  if (changes.length === 0) return
  const prepared = prepare(job)
  const tables = writeTables(kernels, prepared, gridRecord(prepared.rule, 1))
  try {
    await visitPieces(kernels, prepared, tables, changes, visit)
  } finally {
    freeAll(tables)
  }
}

const visitPieces = async (
  kernels: Kernels,
  prepared: Prepared,
  tables: ReturnType<typeof writeTables>,
  changes: readonly Change[],
  visit: (errors: NearestErrors) => Promise<void>,
): Promise<void> => {
  const { job, shape } = prepared
  const { out, in: inputs, dtype } = job
  const { size, groups } = shape
  const pieces = piecesOf(out, changes.length)
  const stack = pieces[0].changes * pieces[0].rows
  const sourceBytes = panelRows * inputs * storedBytes(dtype)
  const most = Math.ceil(pieces[0].rows / panelRows)
  const stackPanels = pieces[0].changes * most
  const delta = new Float32Array(stack * inputs)
  const [scales, offsets] = [new Float32Array(stack * groups), new Float32Array(stack * groups)]
  const regions = allocateAll(kernels, {
    source: most * sourceBytes,
    factors: 8 * inputs * changes.length,
    panels: 2 * kernels.threads * inputs * columnBytes,
    delta: stackPanels * inputs * columnBytes,
    scales: stackPanels * groups * columnBytes,
    offsets: stackPanels * groups * columnBytes,
  })
  const factorsAt = (change: number): number => regions.factors.address + 8 * inputs * change

  /** @param at of the results, in panels */
  const callsFor = (index: number, at: number, panel: number, changed: number): Call[] => {
    const change = changes[index]
    const [factors, inverse] = [factorsAt(index), factorsAt(index) + 4 * inputs]
    const scales = regions.scales.address + at * groups * columnBytes
    const offsets = regions.offsets.address + at * groups * columnBytes
    const rounded = change.name === 'scale' ? changed : panel
    const known = [scales, offsets, tables.groupAt.address, inputs, tables.grid.address] as const
    const calls: Call[] = []
    if (change.name === 'scale') calls.push(['scaleColumns', panel, factors, inputs, changed])
    if (change.name === 'cut') calls.push(['cutGroups', panel, size, groups, change.share, changed])
    calls.push(fitCall(prepared, tables, change.name === 'none' ? panel : changed, scales, offsets))
    calls.push(['nearestErrors', rounded, ...known, changed])
    if (change.name === 'scale') calls.push(['scaleColumns', changed, inverse, inputs, changed])
    calls.push(['panelToRows', changed, regions.delta.address + at * inputs * columnBytes, inputs])
    return calls
  }

  /** A panel with one change after the other, then the next: every worker takes an equal part of that list. */
  const compute = async (piece: Piece): Promise<void> => {
    const panels = Math.ceil(piece.rows / panelRows)
    const units = panels * piece.changes
    const part = Math.ceil(units / kernels.threads)
    if (piece.firstChange === 0) readRows(job, piece.firstRow, piece.rows, regions.source)
    const run = async (worker: number): Promise<void> => {
      const panel = regions.panels.address + 2 * worker * inputs * columnBytes
      const changed = panel + inputs * columnBytes
      const calls: Call[] = []
      const first = worker * part
      for (let unit = first; unit < Math.min(units, first + part); unit++) {
        const [i, change] = [Math.floor(unit / piece.changes), unit % piece.changes]
        const source = regions.source.address + i * sourceBytes
        if (unit === first || change === 0)
          calls.push([panelKernel(dtype), source, panel, tables.place.address, inputs])
        calls.push(...callsFor(piece.firstChange + change, change * panels + i, panel, changed))
      }
      if ((await kernels.run(calls)).some(bad => bad)) throw notFinite(job, piece.firstRow, piece.rows, regions.source)
    }
    // all of them, even where one fails: until then they write where something else will be
    const runs = await Promise.allSettled(Array.from({ length: Math.ceil(units / part) }, (_, worker) => run(worker)))
    const failed = runs.find(({ status }) => status === 'rejected')
    if (failed?.status === 'rejected') throw failed.reason
  }

  /** Out of the shared memory, in which ONNX Runtime reads nothing. */
  const collect = ({ rows, changes: count }: Piece): void => {
    const panels = Math.ceil(rows / panelRows)
    const values = regions.delta.f32()
    const parameters = [regions.scales.f32(), regions.offsets.f32()]
    for (let change = 0; change < count; change++) {
      const from = change * panels * panelRows
      const to = { firstRow: change * rows, rows, panels }
      delta.set(values.subarray(from * inputs, (from + rows) * inputs), to.firstRow * inputs)
      for (const [i, into] of [scales, offsets].entries())
        collectParameters(parameters[i].subarray(from * groups), into, groups, to)
    }
  }

  let computed: Promise<void> | undefined
  try {
    for (const [index, change] of changes.entries())
      if (change.name === 'scale') {
        const at = 2 * inputs * index
        regions.factors.f32().set(change.factors, at)
        regions.factors.f32().set(
          change.factors.map(factor => 1 / factor),
          at + inputs,
        )
      }
    computed = compute(pieces[0])
    for (const [index, piece] of pieces.entries()) {
      await computed
      collect(piece)
      computed = index + 1 < pieces.length ? compute(pieces[index + 1]) : undefined
      computed?.catch(() => {}) // it is thrown when its turn comes
      const { rows, changes: count } = piece
      await visit({ ...piece, delta: delta.subarray(0, count * rows * inputs), scales, offsets })
    }
  } finally {
    await computed?.catch(() => {})
    freeAll(regions)
  }
}
