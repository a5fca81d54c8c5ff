/** Decodes a linear's codes and compares them with the weights that they stand for, on all threads. */
import type { CodedLinear } from '../../contracts.ts'
import { groupRuns } from '../../quantize/dequantize.ts'
import { forEachChunk } from './chunks.ts'
import type { Region } from './heap.ts'
import { type Matrix, readRows, storedBytes } from './panels.ts'
import type { Kernels } from './pool.ts'

export interface RowSums {
  /** Σ w². */
  readonly energy: number
  /** Σ (w − ŵ)². */
  readonly errorEnergy: number
  /** max (w − ŵ)². */
  readonly largest: number
  /** Weights beyond the value of the outermost code that they have, by more than half a step. */
  readonly clipped: number
}

/** Values of some rows, row-major. */
export interface Values {
  readonly original: Float32Array
  readonly decoded: Float32Array
  /** Original minus decoded. */
  readonly delta: Float32Array
}

/** Takes the values of rows [first, first + rows). They are valid until its promise is settled. */
export type VisitRows = (values: Values, first: number, rows: number) => Promise<void> | void

/** How the kernel knows a dtype. */
const kindOf = { BF16: 0, F16: 1, F32: 2 } as const

/** Weights of a chunk: long against a round trip to a worker (0.1 ms), short against the second-level cache. */
const chunkWeights = 2 ** 17

/** Rows that a visitor gets at once: bounds the memory. */
const tileRows = 512

/** Rows [first, end) in pieces of at most `size`. */
const pieces = (first: number, end: number, size: number): { readonly first: number; readonly rows: number }[] =>
  Array.from({ length: Math.ceil((end - first) / size) }, (_, i) => {
    const start = first + i * size
    return { first: start, rows: Math.min(size, end - start) }
  })

/**
 * Sums in float64, within rows and then over them: the bits depend neither on the number of threads nor on the chunks, nor on `visit`.
 * Decoded values are those of `dequantize`, to the bit.
 * @param matrix the original weights
 * @param visit takes the values, in tiles of rows in order
 */
export const measureRows = async (
  kernels: Kernels,
  matrix: Matrix,
  linear: CodedLinear,
  visit?: VisitRows,
): Promise<RowSums> => {
  const { out, in: inputs } = matrix
  const runs = groupRuns(linear.groupOf)
  const table = kernels.allocate(8 * runs.length)
  table.u32().set(runs.flat())
  const sums = new Float64Array(4 * out)
  try {
    if (!visit) await measureTile(kernels, matrix, linear, table, 0, out, sums)
    else {
      const length = Math.min(tileRows, out) * inputs
      const buffers = [0, 1, 2].map(() => new Float32Array(length))
      for (const { first, rows } of pieces(0, out, tileRows)) {
        const [original, decoded, delta] = buffers.map(buffer => buffer.subarray(0, rows * inputs))
        await measureTile(kernels, matrix, linear, table, first, first + rows, sums, { original, decoded, delta })
        await visit({ original, decoded, delta }, first, rows)
      }
    }
  } finally {
    table.free()
  }
  return total(sums)
}

/** Rows [start, end), in chunks on all threads: their sums, and their values if asked for. */
const measureTile = async (
  kernels: Kernels,
  matrix: Matrix,
  { codes, scales, zeros, bits }: CodedLinear,
  runs: Region,
  start: number,
  end: number,
  sums: Float64Array,
  into?: Values,
): Promise<void> => {
  const { out, in: inputs, dtype } = matrix
  const groups = scales.length / out
  const rowsOf = Math.max(1, Math.min(end - start, Math.floor(chunkWeights / inputs)))
  const sizes = {
    source: rowsOf * inputs * storedBytes(dtype),
    codes: rowsOf * inputs,
    scales: 4 * rowsOf * groups,
    zeros: rowsOf * groups,
    sums: 32 * rowsOf,
    values: into ? 12 * rowsOf * inputs : 0,
  }
  await forEachChunk(kernels, pieces(start, end, rowsOf), sizes, async (regions, { first, rows }) => {
    readRows(matrix, first, rows, regions.source)
    regions.codes.u8().set(codes.subarray(first * inputs, (first + rows) * inputs))
    regions.scales.f32().set(scales.subarray(first * groups, (first + rows) * groups))
    regions.zeros.u8().set(zeros.subarray(first * groups, (first + rows) * groups))
    const [codesAt, scalesAt, zerosAt] = [regions.codes, regions.scales, regions.zeros].map(({ address }) => address)
    const counts = [runs.bytes / 8, groups, rows, inputs, 2 ** bits - 1] as const
    const results = [regions.sums.address, into ? regions.values.address : 0] as const
    const given = [regions.source.address, codesAt, scalesAt, zerosAt, runs.address] as const
    await kernels.run([['measureRows', kindOf[dtype], ...given, ...counts, ...results]])
    sums.set(regions.sums.f64().subarray(0, 4 * rows), 4 * first)
    if (!into) return
    const values = regions.values.f32()
    const weights = rows * inputs
    for (const [plane, target] of [into.original, into.decoded, into.delta].entries())
      target.set(values.subarray(plane * weights, (plane + 1) * weights), (first - start) * inputs)
  })
}

/** The sums of all rows [rows, 4], in order. */
const total = (sums: Float64Array): RowSums => {
  let [energy, errorEnergy, largest, clipped] = [0, 0, 0, 0]
  for (let at = 0; at < sums.length; at += 4) {
    energy += sums[at]
    errorEnergy += sums[at + 1]
    largest = Math.max(largest, sums[at + 2])
    clipped += sums[at + 3]
  }
  return { energy, errorEnergy, largest, clipped }
}
