/** Decodes a linear's codes and compares them with the weights that they stand for, on all threads. */
import type { BlockLinear, CodedLinear, DenseLinear, QuantizedLinear } from '../../contracts.ts'
import { groupRuns } from '../../dequantize.ts'
import { toFloat32 } from '../../dtype/convert.ts'
import { layoutOf } from '../../gguf/block-layouts.ts'
import { planeTable } from '../../gguf/code-planes.ts'
import { blockParameters, decodedBlocks } from '../../gguf/coded.ts'
import { ggmlTypes } from '../../gguf/types.ts'
import { forEachChunk } from './chunks.ts'
import { allocateAll, freeAll, type Region } from './heap.ts'
import { type DecodeRecord, decodeRecordBytes, writeDecodeRecord } from './layout.ts'
import { dtypeKinds, type Matrix, readRows, storedBytes } from './panels.ts'
import type { Call, Kernels } from './pool.ts'

export interface RowSums {
  /** Σ w². */
  readonly energy: number
  /** Σ (w − ŵ)². */
  readonly errorEnergy: number
  /** max (w − ŵ)². */
  readonly largest: number
  /** Weights beyond the value of the outermost code that they have, by more than half of the step before it. */
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

/** Weights of a chunk: long against a round trip to a worker (0.1 ms), short against the second-level cache. */
const chunkWeights = 2 ** 18

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
  linear: QuantizedLinear,
  visit?: VisitRows,
): Promise<RowSums> => {
  if (linear.decode === 'dense') return measureDense(kernels, matrix, linear, visit)
  const codes = codesOf(kernels, linear)
  try {
    return await measureCodes(
      kernels,
      matrix,
      linear.decode === 'blocks' ? blockParameters(linear) : linear,
      codes,
      visit,
    )
  } finally {
    codes.release()
  }
}

/** Where the codes of a linear come from. */
interface Codes {
  /** Bytes in shared memory beside the codes, for so many rows. */
  readonly bytes: (rows: number) => number
  /** Brings rows into the region `codes`; calls that finish it. */
  readonly load: (first: number, rows: number, codes: Region, packed: Region) => readonly Call[]
  readonly release: () => void
}

const codesOf = (kernels: Kernels, linear: CodedLinear | BlockLinear): Codes => {
  const plain = ({ codes, in: inputs }: CodedLinear): Codes => ({
    bytes: () => 0,
    load(first, rows, region) {
      region.u8().set(codes.subarray(first * inputs, (first + rows) * inputs))
      return []
    },
    release: () => {},
  })
  if (linear.decode !== 'blocks') return plain(linear)
  const { type, blocks, in: inputs } = linear
  const { planes, offset = 0 } = layoutOf(type)!
  if (!planes) return plain(decodedBlocks(linear))
  const { block, bytes } = ggmlTypes[type]
  const inRow = inputs / block
  const table = kernels.allocate(4 * block * planes.length)
  table.u32().set(planeTable(planes))
  return {
    bytes: rows => rows * inRow * bytes,
    load(first, rows, codes, packed) {
      packed.u8().set(blocks.subarray(first * inRow * bytes, (first + rows) * inRow * bytes))
      const shape = [rows * inRow, bytes, block] as const
      return [['expandCodes', packed.address, ...shape, table.address, planes.length, offset, codes.address]]
    },
    release: () => table.free(),
  }
}

const measureCodes = async (
  kernels: Kernels,
  matrix: Matrix,
  linear: CodedLinear,
  codes: Codes,
  visit: VisitRows | undefined,
): Promise<RowSums> => {
  const { out, in: inputs } = matrix
  const runs = groupRuns(linear.groupOf)
  const record = decodeRecordOf(linear)
  const tables = allocateAll(kernels, { runs: 8 * runs.length, record: decodeRecordBytes(record) })
  tables.runs.u32().set(runs.flat())
  writeDecodeRecord(tables.record.u8(), record)
  const sums = new Float64Array(4 * out)
  try {
    if (!visit) await measureTile(kernels, matrix, linear, codes, tables, 0, out, sums)
    else {
      const length = Math.min(tileRows, out) * inputs
      const buffers = [0, 1, 2].map(() => new Float32Array(length))
      for (const { first, rows } of pieces(0, out, tileRows)) {
        const [original, decoded, delta] = buffers.map(buffer => buffer.subarray(0, rows * inputs))
        await measureTile(kernels, matrix, linear, codes, tables, first, first + rows, sums, {
          original,
          decoded,
          delta,
        })
        await visit({ original, decoded, delta }, first, rows)
      }
    }
  } finally {
    freeAll(tables)
  }
  return total(sums)
}

/** Rows [start, end), in chunks on all threads: their sums, and their values if asked for. */
const measureTile = async (
  kernels: Kernels,
  matrix: Matrix,
  { decode, scales, zeros, biases }: CodedLinear,
  codes: Codes,
  tables: { readonly runs: Region; readonly record: Region },
  start: number,
  end: number,
  sums: Float64Array,
  into?: Values,
): Promise<void> => {
  const { out, in: inputs, dtype } = matrix
  const groups = scales.length / out
  const offsets = decode === 'biased' ? biases : zeros
  const rowsOf = Math.max(1, Math.min(end - start, Math.floor(chunkWeights / inputs)))
  const sizes = {
    source: rowsOf * inputs * storedBytes(dtype),
    codes: rowsOf * inputs,
    packed: codes.bytes(rowsOf),
    scales: 4 * rowsOf * groups,
    offsets: 4 * rowsOf * groups,
    sums: 32 * rowsOf,
    values: into ? 12 * rowsOf * inputs : 0,
  }
  await forEachChunk(kernels, pieces(start, end, rowsOf), sizes, async (regions, { first, rows }) => {
    readRows(matrix, first, rows, regions.source)
    const expand = codes.load(first, rows, regions.codes, regions.packed)
    regions.scales.f32().set(scales.subarray(first * groups, (first + rows) * groups))
    if (decode !== 'levels') regions.offsets.f32().set(offsets.subarray(first * groups, (first + rows) * groups))
    const parts = [regions.codes.address, regions.scales.address, regions.offsets.address, tables.runs.address] as const
    const counts = [tables.runs.bytes / 8, groups, rows, inputs, tables.record.address] as const
    const results = [regions.sums.address, into ? regions.values.address : 0] as const
    const measure = ['measureRows', dtypeKinds[dtype], regions.source.address, ...parts, ...counts, ...results] as const
    await kernels.run([...expand, measure])
    sums.set(regions.sums.f64().subarray(0, 4 * rows), 4 * first)
    if (!into) return
    const values = regions.values.f32()
    const weights = rows * inputs
    for (const [plane, target] of [into.original, into.decoded, into.delta].entries())
      target.set(values.subarray(plane * weights, (plane + 1) * weights), (first - start) * inputs)
  })
}

/** The outermost codes, and half of the step before each. */
const decodeRecordOf = ({ decode, bits, levels }: CodedLinear): DecodeRecord => {
  const highCode = 2 ** bits - 1
  if (decode !== 'levels')
    return { decode, lowCode: 0, highCode, lowLevel: 0, highLevel: highCode, lowHalf: 0.5, highHalf: 0.5, levels }
  const order = [...levels.keys()].filter(code => !Number.isNaN(levels[code])).sort((a, b) => levels[a] - levels[b])
  const [low, second] = order
  const [last, high] = order.slice(-2)
  return {
    decode,
    lowCode: low,
    highCode: high,
    lowLevel: levels[low],
    highLevel: levels[high],
    lowHalf: (levels[second] - levels[low]) / 2,
    highHalf: (levels[high] - levels[last]) / 2,
    levels,
  }
}

/** Of weights that are stored as values: none has a code, so none is clipped. */
const measureDense = async (
  kernels: Kernels,
  matrix: Matrix,
  { values }: DenseLinear,
  visit?: VisitRows,
): Promise<RowSums> => {
  const { out, in: inputs, dtype } = matrix
  const rowsOf = Math.min(tileRows, out)
  const region = kernels.allocate(rowsOf * inputs * storedBytes(dtype))
  const sums = new Float64Array(4 * out)
  try {
    for (const { first, rows } of pieces(0, out, rowsOf)) {
      readRows(matrix, first, rows, region)
      const original = toFloat32(region.u8().slice(0, rows * inputs * storedBytes(dtype)), dtype)
      const decoded = values.slice(first * inputs, (first + rows) * inputs)
      const delta = original.map((weight, i) => weight - decoded[i])
      for (const [i, weight] of original.entries()) {
        const at = 4 * (first + Math.floor(i / inputs))
        const square = (weight - decoded[i]) ** 2
        sums[at] += weight * weight
        sums[at + 1] += square
        sums[at + 2] = Math.max(sums[at + 2], square)
      }
      await visit?.({ original, decoded, delta }, first, rows)
    }
  } finally {
    region.free()
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
