/** One scale for a whole matrix: a pass over its rows for the range, and one for the clip's search. */
import { allocateAll, freeAll } from '../engine/kernel/heap.ts'
import { columnBytes, panelRows } from '../engine/kernel/layout.ts'
import { forEachPanel, type Matrix, type PanelJob } from '../engine/kernel/panels.ts'
import type { Kernels } from '../engine/kernel/pool.ts'
import { bestCandidate, candidatesOf, type FitRule, type Range, rangeOf } from './fit.ts'
import { type Affine, maxCodeOf } from './grid/uniform.ts'

const panelsPerChunk = ({ out }: Matrix, threads: number): number =>
  Math.max(1, Math.min(8, Math.ceil(out / panelRows / (2 * threads))))

const matrixRange = async (kernels: Kernels, matrix: Matrix, place: number): Promise<Range> => {
  let range: Range = { low: 0, high: 0 }
  const job: PanelJob<'lows' | 'highs'> = {
    panelsPerChunk: panelsPerChunk(matrix, kernels.threads),
    place,
    regions: panels => ({ lows: panels * columnBytes, highs: panels * columnBytes }),
    calls: ({ panel, lows, highs }, i) => [
      ['panelRange', panel.address, matrix.in, lows.address + i * columnBytes, highs.address + i * columnBytes],
    ],
    collect({ lows, highs }, { rows }) {
      const ends = [range.low, range.high, ...lows.f32().subarray(0, rows), ...highs.f32().subarray(0, rows)]
      range = rangeOf(ends)
    },
  }
  await forEachPanel(kernels, matrix, job)
  return range
}

/** Errors in code units, summed over rows in row order, of each candidate. */
const matrixErrors = async (
  kernels: Kernels,
  matrix: Matrix,
  tables: { readonly place: number; readonly weighting: number; readonly candidates: number },
  count: number,
): Promise<number[]> => {
  const rowErrors = Array.from({ length: count }, () => new Float32Array(matrix.out))
  const panelSums = count * panelRows
  const job: PanelJob<'sums'> = {
    panelsPerChunk: panelsPerChunk(matrix, kernels.threads),
    place: tables.place,
    regions: panels => ({ sums: 4 * panels * panelSums }),
    calls: ({ panel, sums }, i) => {
      const { place, weighting, candidates } = tables
      const to = sums.address + 4 * i * panelSums
      return [['panelErrors', panel.address, place, weighting, matrix.in, candidates, count, to]]
    },
    collect({ sums }, { firstRow, rows }) {
      const values = sums.f32()
      for (const [candidate, errors] of rowErrors.entries())
        for (let row = 0; row < rows; row++) {
          const panel = Math.floor(row / panelRows) * panelSums
          errors[firstRow + row] = values[panel + candidate * panelRows + (row % panelRows)]
        }
    },
  }
  await forEachPanel(kernels, matrix, job)
  return rowErrors.map(errors => errors.reduce((total, error) => total + error, 0))
}

/** Fast twin of `fitJointly` (fit.ts). */
export const fitTensor = async (
  kernels: Kernels,
  matrix: Matrix,
  weighting: Float32Array,
  rule: FitRule,
): Promise<Affine> => {
  const count = rule.clip.shrinks.length
  const regions = allocateAll(kernels, { place: 4 * matrix.in, weighting: 4 * matrix.in, candidates: 12 * count })
  try {
    regions.place.u32().forEach((_, column, place) => {
      place[column] = column * columnBytes
    })
    const candidates = candidatesOf(await matrixRange(kernels, matrix, regions.place.address), rule)
    if (count === 1) return candidates[0]
    regions.weighting.f32().set(weighting)
    const maxCode = maxCodeOf(rule.grid)
    regions.candidates.f32().set(candidates.flatMap(({ scale, zero }) => [1 / scale, -zero, maxCode - zero]))
    const tables = {
      place: regions.place.address,
      weighting: regions.weighting.address,
      candidates: regions.candidates.address,
    }
    return bestCandidate(candidates, await matrixErrors(kernels, matrix, tables, count), x => x)
  } finally {
    freeAll(regions)
  }
}
