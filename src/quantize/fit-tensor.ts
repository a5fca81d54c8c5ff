/** One scale for a whole matrix: a pass over its rows for the range, and one for the clip's search. */

import type { UniformGrid } from '../contracts.ts'
import { allocateAll, freeAll, type Region } from '../engine/kernel/heap.ts'
import { columnBytes, panelRows } from '../engine/kernel/layout.ts'
import { forEachPanel, type Matrix, type PanelJob } from '../engine/kernel/panels.ts'
import type { Kernels } from '../engine/kernel/pool.ts'
import { bestCandidate, candidatesOf, type FitRule } from './fit.ts'
import { type Parameters, type Range, rangeOf } from './grid/coder.ts'
import { coderOf } from './grid/index.ts'
import { maxCodeOf } from './grid/uniform.ts'

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

/** Addresses of a matrix's columns in a panel, in natural order. */
const naturalPlaces = (region: Region): void =>
  region.u32().forEach((_, column, place) => {
    place[column] = column * columnBytes
  })

/** The largest magnitude of a matrix. @throws QuantizeError bad-input for a weight that is not finite */
export const absMaxOf = async (kernels: Kernels, matrix: Matrix): Promise<number> => {
  const place = kernels.allocate(4 * matrix.in)
  try {
    naturalPlaces(place)
    const { low, high } = await matrixRange(kernels, matrix, place.address)
    return Math.max(high, -low)
  } finally {
    place.free()
  }
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

/** Fast twin of `fitJointly` (fit.ts), for integers. */
export const fitTensor = async (
  kernels: Kernels,
  matrix: Matrix,
  weighting: Float32Array,
  rule: FitRule & { readonly grid: UniformGrid },
): Promise<Parameters> => {
  const count = rule.clip.shrinks.length
  const regions = allocateAll(kernels, { place: 4 * matrix.in, weighting: 4 * matrix.in, candidates: 12 * count })
  try {
    naturalPlaces(regions.place)
    const range = await matrixRange(kernels, matrix, regions.place.address)
    const candidates = candidatesOf(range, rule.clip, coderOf(rule.grid, rule.storage))
    if (count === 1) return candidates[0]
    regions.weighting.f32().set(weighting)
    const maxCode = maxCodeOf(rule.grid)
    regions.candidates.f32().set(candidates.flatMap(({ scale, offset }) => [1 / scale, -offset, maxCode - offset]))
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
