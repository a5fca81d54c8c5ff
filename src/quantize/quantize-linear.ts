/** Quantizes one linear with the kernels: grid, clip, granularity and rounding put together; bit for bit what reference.ts computes. */
import type { ActOrder, ClipName, CodedLinear, Group, Storage, UniformGrid } from '../contracts.ts'
import type { Factor } from '../engine/kernel/factor.ts'
import { allocateAll, freeAll, type Region } from '../engine/kernel/heap.ts'
import { columnBytes, gridRecordBytes, panelRows, writeGridRecord } from '../engine/kernel/layout.ts'
import { type Chunk, forEachPanel, type Matrix, type PanelJob } from '../engine/kernel/panels.ts'
import type { Call, Kernels } from '../engine/kernel/pool.ts'
import { clips } from './clip/index.ts'
import { type FitRule, normalizedWeighting } from './fit.ts'
import { fitTensor } from './fit-tensor.ts'
import { columnGroups, fitsInSweep, type Granularity, granularity, naturalOrder } from './granularity.ts'
import { type Affine, maxCodeOf } from './grid/uniform.ts'
import { checkScale, scaleDtypes } from './storage.ts'

/** How codes are chosen once the scales are known. */
export type LinearRounding =
  | { readonly name: 'nearest' }
  | {
      readonly name: 'gptq'
      /** U of the tap, rows and columns in the sweep's order. */
      readonly factor: Factor
      readonly actOrder: ActOrder
      /** [in]: the column at each position of the sweep; natural when left out, as it must be for act-order none. */
      readonly order?: Int32Array
    }

/** One linear and what becomes of it. */
export interface LinearJob extends Matrix {
  readonly grid: UniformGrid
  readonly clip: ClipName
  readonly group: Group
  readonly storage: Storage
  readonly rounding: LinearRounding
  /** [in], natural order: what a squared error of each column counts in the clip's search, up to a factor; without it all count alike. */
  readonly weighting?: Float32Array
}

export interface RoundedLinear {
  readonly quantized: CodedLinear
  /** Σ e² = tr(ΔW H ΔWᵀ) with the H of the factor, summed in float64; undefined without feedback. When it is not finite the sweep diverged and the codes are of no use. */
  readonly loss: number | undefined
}

/** The parts of a job that every panel needs, by name. */
interface Prepared {
  readonly job: LinearJob
  readonly shape: Granularity
  readonly rule: FitRule
  readonly order: Int32Array
  readonly groupOf: Int32Array
  /** [in], natural order, largest value 1. */
  readonly weighting: Float32Array
  readonly inSweep: boolean
}

const isNatural = (order: Int32Array): boolean => order.every((column, position) => column === position)

const prepare = (job: LinearJob): Prepared => {
  const { grid, storage, rounding, group, in: inputs } = job
  const shape = granularity(group, inputs)
  const order = (rounding.name === 'gptq' && rounding.order) || naturalOrder(inputs)
  const actOrder = rounding.name === 'gptq' ? rounding.actOrder : 'static'
  if (actOrder === 'none' && !isNatural(order)) throw new Error(`${job.name}: act-order none sweeps in natural order`)
  if (rounding.name === 'gptq' && rounding.factor.size !== inputs)
    throw new Error(`${job.name}: the factor is of another tap`)
  return {
    job,
    shape,
    rule: { grid, clip: clips[job.clip], storage },
    order,
    groupOf: columnGroups(shape, actOrder, order),
    weighting: normalizedWeighting(inputs, job.weighting),
    inSweep: fitsInSweep(group, actOrder),
  }
}

type TableName = 'place' | 'list' | 'weighting' | 'groupAt' | 'grid' | 'jointScale' | 'jointZero'

/** Tables that all panels read (layouts: the kernels' sources). */
const writeTables = (kernels: Kernels, prepared: Prepared, joint: Affine | undefined): Record<TableName, Region> => {
  const { job, rule, order, groupOf, weighting, inSweep } = prepared
  const { shift, smallest } = scaleDtypes[rule.storage.scaleDtype]
  const record = {
    maxCode: maxCodeOf(rule.grid),
    symmetric: rule.grid.symmetric,
    zeroRange: rule.storage.zeroRange!,
    scaleShift: shift,
    scaleFloor: smallest,
    shrinks: rule.clip.shrinks,
  }
  const columns = 4 * job.in
  const tables = allocateAll(kernels, {
    place: columns,
    list: columns,
    weighting: columns,
    groupAt: columns,
    grid: gridRecordBytes(record),
    jointScale: columnBytes,
    jointZero: columnBytes,
  })
  const place = tables.place.u32()
  for (const [position, column] of order.entries()) place[column] = position * columnBytes
  tables.groupAt.u32().set(order.map(column => groupOf[column] * columnBytes))
  // Groups are fitted over runs of positions in the sweep, of columns before it.
  tables.list.u32().set(inSweep ? order.map((_, position) => position * columnBytes) : place)
  tables.weighting.f32().set(inSweep ? Float32Array.from(order, column => weighting[column]) : weighting)
  writeGridRecord(tables.grid.u8(), record)
  tables.jointScale.f32().fill(joint?.scale ?? 0)
  tables.jointZero.f32().fill(joint?.zero ?? 0)
  return tables
}

/** Estimated nanoseconds of a panel on one thread (measured: 1.5 ns a weight, 40 with 80 shrink factors, 30 GFLOP/s in the sweep). */
const panelNanoseconds = ({ job, rule }: Prepared): number =>
  panelRows * job.in * ((rule.clip.shrinks.length > 1 ? 40 : 1.5) + (job.rounding.name === 'gptq' ? job.in / 30 : 0))

/** Work of a chunk at most: long against a round trip to a worker (0.1 ms), short against the run. */
const chunkNanoseconds = 4e6

/** As many chunks for each thread, at least two, since the last ones decide how long the others wait. */
const panelsPerChunk = (prepared: Prepared, threads: number): number => {
  const panels = Math.ceil(prepared.job.out / panelRows)
  const perThread = Math.max(2, Math.ceil((panels * panelNanoseconds(prepared)) / chunkNanoseconds / threads))
  return Math.ceil(panels / (perThread * threads))
}

type ChunkRegion = 'errors' | 'codes' | 'codeRows' | 'scales' | 'zeros' | 'losses'

/** The calls for panel i of a chunk: fit, round, back to rows. */
const callsFor = (
  { job, shape, inSweep }: Prepared,
  tables: Readonly<Record<TableName, Region>>,
  regions: Readonly<Record<ChunkRegion | 'panel', Region>>,
  i: number,
): Call[] => {
  const address = (name: TableName): number => tables[name].address
  const panel = regions.panel.address
  const codes = regions.codes.address
  const parameters = i * shape.groups * columnBytes
  const scales = shape.joint ? address('jointScale') : regions.scales.address + parameters
  const zeros = shape.joint ? address('jointZero') : regions.zeros.address + parameters
  const list = [address('list'), address('weighting')] as const
  const calls: Call[] = []
  if (!shape.joint && !inSweep)
    calls.push(['fitGroups', panel, ...list, shape.size, shape.groups, address('grid'), scales, zeros])
  if (job.rounding.name === 'gptq') {
    const errors = regions.errors.address
    const unit = inSweep ? shape.size : 0
    const given = [job.rounding.factor.address, scales, zeros, address('groupAt')] as const
    calls.push(['sweep', panel, errors, codes, ...given, job.in, unit, ...list, address('grid')])
    calls.push(['rowLoss', errors, job.in, regions.losses.address + i * 8 * panelRows])
  } else {
    calls.push(['roundNearest', panel, codes, scales, zeros, address('groupAt'), job.in, address('grid')])
  }
  calls.push(['codesToRows', codes, regions.codeRows.address + i * panelRows * job.in, address('place'), job.in])
  return calls
}

/** [panel][group][48] → [row][group] */
const collectParameters = (from: Float32Array, into: Float32Array, groups: number, { firstRow, rows }: Chunk): void => {
  for (let row = 0; row < rows; row++) {
    const panel = Math.floor(row / panelRows) * groups * panelRows + (row % panelRows)
    const to = (firstRow + row) * groups
    for (let group = 0; group < groups; group++) into[to + group] = from[panel + group * panelRows]
  }
}

const checkScales = ({ name, storage }: LinearJob, scales: Float32Array, groups: number): void => {
  const { largest } = scaleDtypes[storage.scaleDtype]
  const bad = scales.findIndex(scale => !(scale <= largest))
  if (bad >= 0) checkScale(scales[bad], storage.scaleDtype, name, Math.floor(bad / groups))
}

/**
 * Reads a linear's weights and chooses its codes. Shared memory holds threads + 1 chunks of rows, whatever the linear's size.
 * @throws QuantizeError bad-input (a weight that is not finite, with its row and column), unsupported (a group that does not divide, a scale
 *   beyond its dtype), exhausted
 */
export const quantizeLinear = async (kernels: Kernels, job: LinearJob): Promise<RoundedLinear> => {
  const prepared = prepare(job)
  const { shape, rule, weighting, groupOf } = prepared
  const { out, in: inputs, rounding } = job
  const { groups } = shape
  const joint = shape.joint ? await fitTensor(kernels, job, weighting, rule) : undefined
  const codes = new Uint8Array(out * inputs)
  const scales = new Float32Array(out * groups).fill(joint?.scale ?? 0)
  const zeros = new Float32Array(out * groups).fill(joint?.zero ?? 0)
  const losses = new Float64Array(out)
  const tables = writeTables(kernels, prepared, joint)
  const feedback = rounding.name === 'gptq'
  const panelJob: PanelJob<ChunkRegion> = {
    panelsPerChunk: panelsPerChunk(prepared, kernels.threads),
    place: tables.place.address,
    regions: panels => ({
      errors: feedback ? inputs * columnBytes : 0,
      codes: inputs * panelRows,
      codeRows: panels * panelRows * inputs,
      scales: joint ? 0 : panels * groups * columnBytes,
      zeros: joint ? 0 : panels * groups * columnBytes,
      losses: feedback ? panels * panelRows * 8 : 0,
    }),
    calls: (regions, i) => callsFor(prepared, tables, regions, i),
    collect(regions, chunk) {
      const { firstRow, rows } = chunk
      codes.set(regions.codeRows.u8().subarray(0, rows * inputs), firstRow * inputs)
      if (feedback) losses.set(regions.losses.f64().subarray(0, rows), firstRow)
      if (joint) return
      collectParameters(regions.scales.f32(), scales, groups, chunk)
      collectParameters(regions.zeros.f32(), zeros, groups, chunk)
    },
  }
  try {
    await forEachPanel(kernels, job, panelJob)
  } finally {
    freeAll(tables)
  }
  const loss = feedback ? losses.reduce((total, value) => total + value, 0) : undefined
  if (loss === undefined || Number.isFinite(loss)) checkScales(job, scales, groups)
  const none = new Float32Array(0)
  return {
    quantized: {
      decode: 'affine',
      out,
      in: inputs,
      bits: rule.grid.bits,
      codes,
      scales,
      zeros,
      biases: none,
      levels: none,
      groupOf,
    },
    loss,
  }
}
