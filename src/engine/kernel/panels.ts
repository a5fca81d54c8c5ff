import type { TensorSource } from '../../contracts.ts'
import { bytesOf } from '../../dtype/bytes.ts'
import { QuantizeError } from '../../errors.ts'
import { forEachChunk } from './chunks.ts'
import type { Region } from './heap.ts'
import { columnBytes, panelRows } from './layout.ts'
import type { Call, Kernels } from './pool.ts'

/** Dtypes that panels are made from. */
export type PanelDtype = 'BF16' | 'F16' | 'F32'

/** Bytes [start, end) of a tensor, to be written into `into`, which lies in shared memory. */
export type ReadBytes = (start: number, end: number, into: Uint8Array) => void

/** A weight matrix as it is stored: [out, in], row-major. */
export interface Matrix {
  /** The tensor's name, for errors. */
  readonly name: string
  readonly out: number
  readonly in: number
  readonly dtype: PanelDtype
  readonly source: Uint8Array | ReadBytes
}

/** A weight tensor as a matrix. The plan takes no other dtypes. */
export const matrixOf = (source: TensorSource, out: number, inputs: number): Matrix => ({
  name: source.name,
  out,
  in: inputs,
  dtype: source.dtype as PanelDtype,
  source: (start, end, into) => void source.read(start, end, into),
})

/** Weights [out, in] in memory as a matrix. */
export const matrixOfValues = (name: string, values: Float32Array, out: number, inputs: number): Matrix => ({
  name,
  out,
  in: inputs,
  dtype: 'F32',
  source: bytesOf(values),
})

/** Rows of a matrix that one worker takes at once: whole panels but for the last. */
export interface Chunk {
  readonly firstRow: number
  readonly rows: number
  readonly panels: number
}

/** What is done with every panel. `Name`s are regions that a chunk needs beside its source and one panel. */
export interface PanelJob<Name extends string> {
  readonly panelsPerChunk: number
  /** Address of u32 [in]: the place of each column in a panel, in bytes (192 · position). */
  readonly place: number
  /** Bytes of each region for a chunk of that many panels. */
  regions(panels: number): Readonly<Record<Name, number>>
  /** Fills regions that the calls read, before they run. */
  prepare?(regions: Readonly<Record<Name, Region>>, chunk: Chunk): void
  /** Calls for panel i of a chunk, whose weights lie in `regions.panel`. */
  calls(regions: Readonly<Record<Name | 'panel', Region>>, i: number): readonly Call[]
  /** Takes the results of a chunk; chunks come in any order. */
  collect(regions: Readonly<Record<Name, Region>>, chunk: Chunk): void
}

const stored = {
  BF16: { bytes: 2, kernel: 'panelFromBf16', exponent: 0x7f80 },
  F16: { bytes: 2, kernel: 'panelFromF16', exponent: 0x7c00 },
  F32: { bytes: 4, kernel: 'panelFromF32', exponent: 0x7f800000 },
} as const

/** How kernels that take rows know a dtype. */
export const dtypeKinds = { BF16: 0, F16: 1, F32: 2 } as const satisfies Record<PanelDtype, number>

/** What makes a panel of rows of a dtype. */
export const panelKernel = (dtype: PanelDtype) => stored[dtype].kernel

/** Bytes of a weight as stored. */
export const storedBytes = (dtype: PanelDtype): number => stored[dtype].bytes

const chunksOf = (out: number, panelsPerChunk: number): Chunk[] => {
  const chunkRows = panelsPerChunk * panelRows
  return Array.from({ length: Math.ceil(out / chunkRows) }, (_, i) => {
    const firstRow = i * chunkRows
    const rows = Math.min(chunkRows, out - firstRow)
    return { firstRow, rows, panels: Math.ceil(rows / panelRows) }
  })
}

/** Brings rows of a matrix into shared memory; what is left of the region becomes zeros. */
export const readRows = ({ source, dtype, in: inputs }: Matrix, first: number, rows: number, region: Region): void => {
  const rowBytes = inputs * stored[dtype].bytes
  const [start, end] = [first * rowBytes, (first + rows) * rowBytes]
  const into = region.u8()
  if (typeof source === 'function') source(start, end, into.subarray(0, end - start))
  else into.set(source.subarray(start, end))
  into.fill(0, end - start)
}

/** Names the first value that is not finite among some rows. */
export const notFinite = (
  { name, dtype, in: inputs }: Matrix,
  firstRow: number,
  rows: number,
  region: Region,
): QuantizeError => {
  const { bytes, exponent } = stored[dtype]
  const { buffer, byteOffset } = region.u8()
  const length = rows * inputs
  const values = bytes === 2 ? new Uint16Array(buffer, byteOffset, length) : new Uint32Array(buffer, byteOffset, length)
  const at = values.findIndex(value => (value & exponent) === exponent)
  const mantissa = values[at] & (exponent === 0x7f800000 ? 0x7fffff : 0x7fff ^ exponent)
  const row = firstRow + Math.floor(at / inputs)
  return new QuantizeError(
    'bad-input',
    `${name}: row ${row}, column ${at % inputs} is ${mantissa ? 'NaN' : 'infinite'}; weights must be finite, so the file is damaged or was saved after a failed training step (--nonfinite zero takes 0 instead)`,
    { lasting: true },
  )
}

/**
 * Runs a job over all panels of a matrix. The calling thread reads the rows of the next chunk while the workers compute; memory held is
 * threads + 1 chunks. Which worker takes which chunk changes no result.
 * @throws QuantizeError bad-input naming row and column of a value that is not finite; exhausted
 */
export const forEachPanel = async <Name extends string>(
  kernels: Kernels,
  matrix: Matrix,
  job: PanelJob<Name>,
): Promise<void> => {
  const { bytes, kernel } = stored[matrix.dtype]
  const chunks = chunksOf(matrix.out, job.panelsPerChunk)
  const panelSource = panelRows * matrix.in * bytes
  const sizes = {
    ...job.regions(job.panelsPerChunk),
    source: job.panelsPerChunk * panelSource,
    panel: matrix.in * columnBytes,
  } as Record<Name | 'source' | 'panel', number>
  await forEachChunk(kernels, chunks, sizes, async (regions, chunk) => {
    readRows(matrix, chunk.firstRow, chunk.rows, regions.source)
    job.prepare?.(regions, chunk)
    const programs = Array.from({ length: chunk.panels }, (_, i): readonly Call[] => [
      [kernel, regions.source.address + i * panelSource, regions.panel.address, job.place, matrix.in],
      ...job.calls(regions, i),
    ])
    const results = await kernels.run(programs.flat())
    for (let i = 0, at = 0; i < chunk.panels; at += programs[i].length, i++)
      if (results[at]) throw notFinite(matrix, chunk.firstRow, chunk.rows, regions.source)
    job.collect(regions, chunk)
  })
}
