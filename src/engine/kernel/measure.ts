/** Decodes a linear's codes and compares them with the weights that they stand for, on all threads. */
import type { QuantizedLinear } from '../../contracts.ts'
import { groupRuns } from '../../quantize/dequantize.ts'
import { forEachChunk } from './chunks.ts'
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

/** Matrices [out, in] that take values as float32. */
export interface Values {
  readonly original: Float32Array
  readonly decoded: Float32Array
  /** Original minus decoded. */
  readonly delta: Float32Array
}

const kernelOf = { BF16: 'measureBf16', F16: 'measureF16', F32: 'measureF32' } as const

/** Weights of a chunk: long against a round trip to a worker (0.1 ms), short against the second-level cache. */
const chunkWeights = 2 ** 17

/**
 * Sums in float64, within rows and then over them: the bits depend neither on the number of threads nor on the chunks.
 * Decoded values are those of `dequantize`, to the bit.
 * @param matrix the original weights
 */
export const measureRows = async (
  kernels: Kernels,
  matrix: Matrix,
  { codes, scales, zeros, bits, groupOf }: QuantizedLinear,
  into?: Values,
): Promise<RowSums> => {
  const { out, in: inputs, dtype } = matrix
  const groups = scales.length / out
  const runs = groupRuns(groupOf)
  const rowsOf = Math.max(1, Math.floor(chunkWeights / inputs))
  const chunks = Array.from({ length: Math.ceil(out / rowsOf) }, (_, i) => {
    const first = i * rowsOf
    return { first, rows: Math.min(rowsOf, out - first) }
  })
  const sums = new Float64Array(4 * out)
  const sizes = {
    source: rowsOf * inputs * storedBytes(dtype),
    codes: rowsOf * inputs,
    scales: 4 * rowsOf * groups,
    zeros: rowsOf * groups,
    sums: 32 * rowsOf,
    values: into ? 12 * rowsOf * inputs : 0,
  }
  const table = kernels.allocate(8 * runs.length)
  table.u32().set(runs.flat())
  try {
    await forEachChunk(kernels, chunks, sizes, async (regions, { first, rows }) => {
      readRows(matrix, first, rows, regions.source)
      regions.codes.u8().set(codes.subarray(first * inputs, (first + rows) * inputs))
      regions.scales.f32().set(scales.subarray(first * groups, (first + rows) * groups))
      regions.zeros.u8().set(zeros.subarray(first * groups, (first + rows) * groups))
      const given = [regions.codes, regions.scales, regions.zeros, table].map(({ address }) => address)
      const [codesAt, scalesAt, zerosAt, runsAt] = given
      const counts = [runs.length, groups, rows, inputs, 2 ** bits - 1] as const
      const results = [regions.sums.address, into ? regions.values.address : 0] as const
      const source = regions.source.address
      await kernels.run([[kernelOf[dtype], source, codesAt, scalesAt, zerosAt, runsAt, ...counts, ...results]])
      sums.set(regions.sums.f64().subarray(0, 4 * rows), 4 * first)
      if (!into) return
      const values = regions.values.f32()
      const weights = rows * inputs
      for (const [plane, target] of [into.original, into.decoded, into.delta].entries())
        target.set(values.subarray(plane * weights, (plane + 1) * weights), first * inputs)
    })
  } finally {
    table.free()
  }
  return total(sums)
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
