/** Quantizes one linear with the kernels: grid, clip, granularity and rounding put together; bit for bit what reference.ts computes. */
import type { ActOrder, ClipName, CodedLinear, Grid, Group, Storage } from '../contracts.ts'
import type { Factor } from '../engine/kernel/factor.ts'
import { allocateAll, freeAll, type Region } from '../engine/kernel/heap.ts'
import { columnBytes, type GridRecord, gridRecordBytes, panelRows, writeGridRecord } from '../engine/kernel/layout.ts'
import { type Chunk, forEachPanel, type Matrix, type PanelJob } from '../engine/kernel/panels.ts'
import type { Call, Kernels } from '../engine/kernel/pool.ts'
import { clips } from './clip/index.ts'
import { codedLinear, type GroupParameters } from './encoder.ts'
import { type FitRule, normalizedWeighting } from './fit.ts'
import { fitTensor } from './fit-tensor.ts'
import { columnGroups, fitsInSweep, type Granularity, granularity, naturalOrder } from './granularity.ts'
import { middleOf, reachOf } from './grid/index.ts'
import { maxCodeOf } from './grid/uniform.ts'
import { checkSettled, fitStorage, isSettled, settleScales } from './settle.ts'
import { biasDtypes, checkScale, scaleDtypes } from './storage.ts'

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
  readonly grid: Grid
  readonly clip: ClipName
  readonly group: Group
  readonly storage: Storage
  readonly rounding: LinearRounding
  /** The largest weight under the global scale (Storage.second), where others stand under it as well. */
  readonly shared?: number
  /** [in], natural order: what a squared error of each column counts in the clip's search, up to a factor; without it all count alike. */
  readonly weighting?: Float32Array
  /** Scales and offsets that are known: only codes are chosen. A scale may be negative, or 0 (all its codes are 0 then). */
  readonly given?: Pick<CodedLinear, 'scales' | 'zeros' | 'biases'>
}

export interface RoundedLinear {
  readonly quantized: CodedLinear
  /** Σ e² = tr(ΔW H ΔWᵀ) with the H of the factor, summed in float64; undefined without feedback. When it is not finite the sweep diverged and the codes are of no use. */
  readonly loss: number | undefined
}

/** The parts of a job that every panel needs, by name. */
export interface Prepared {
  readonly job: LinearJob
  readonly shape: Granularity
  readonly rule: FitRule
  /** Scales are decided from all of the tensor's, before any code is chosen. */
  readonly settled: boolean
  readonly order: Int32Array
  readonly groupOf: Int32Array
  /** [in], natural order, largest value 1. */
  readonly weighting: Float32Array
  readonly inSweep: boolean
}

const isNatural = (order: Int32Array): boolean => order.every((column, position) => column === position)

export const prepare = (job: LinearJob): Prepared => {
  const { grid, storage, rounding, group, in: inputs } = job
  const shape = granularity(group, inputs)
  const order = (rounding.name === 'gptq' && rounding.order) || naturalOrder(inputs)
  const rule = { grid, clip: clips[job.clip], storage }
  checkSettled(group, rule)
  const settled = job.given !== undefined || isSettled(group, rule)
  const actOrder = rounding.name === 'gptq' && !settled ? rounding.actOrder : 'static'
  if (rounding.name === 'gptq' && rounding.actOrder === 'none' && !isNatural(order))
    throw new Error(`${job.name}: act-order none sweeps in natural order`)
  if (rounding.name === 'gptq' && rounding.factor.size !== inputs)
    throw new Error(`${job.name}: the factor is of another tap`)
  return {
    job,
    shape,
    rule,
    settled,
    order,
    groupOf: columnGroups(shape, actOrder, order),
    weighting: normalizedWeighting(inputs, job.weighting),
    inSweep: !settled && fitsInSweep(group, actOrder),
  }
}

/** Whether each group of each row has parameters of its own, fitted from its weights only. */
export const standsByGroup = ({
  given,
  group,
  grid,
  storage,
  clip,
}: Pick<LinearJob, 'given' | 'group' | 'grid' | 'storage' | 'clip'>): boolean =>
  !given && group !== 'tensor' && !isSettled(group, { grid, clip: clips[clip], storage })

type TableName = 'place' | 'list' | 'weighting' | 'groupAt' | 'grid'

export const gridRecord = ({ grid, clip, storage }: FitRule, zeroScale: 0 | 1): GridRecord => {
  const scale = scaleDtypes[storage.scaleDtype]
  const record = {
    zeroRange: storage.zeroRange ?? ([0, 0] as const),
    scale,
    scaleFloor: scale.smallest,
    bias: biasDtypes[storage.biasDtype ?? 'F32'],
    zeroScale,
    shrinks: clip.shrinks,
  }
  if (grid.kind === 'levels') return { ...record, kind: 'levels', maxCode: 0, levels: grid }
  const kind = grid.symmetric ? 'symmetric' : storage.decode === 'biased' ? 'biased' : 'affine'
  return { ...record, kind, maxCode: maxCodeOf(grid) }
}

/** Tables that all panels read (layouts: the kernels' sources). */
export const writeTables = (kernels: Kernels, prepared: Prepared, record: GridRecord): Record<TableName, Region> => {
  const { job, order, groupOf, weighting, inSweep } = prepared
  const columns = 4 * job.in
  const tables = allocateAll(kernels, {
    place: columns,
    list: columns,
    weighting: columns,
    groupAt: columns,
    grid: gridRecordBytes(record),
  })
  const place = tables.place.u32()
  for (const [position, column] of order.entries()) place[column] = position * columnBytes
  tables.groupAt.u32().set(order.map(column => groupOf[column] * columnBytes))
  // Groups are fitted over runs of positions in the sweep, of columns before it.
  tables.list.u32().set(inSweep ? order.map((_, position) => position * columnBytes) : place)
  tables.weighting.f32().set(inSweep ? Float32Array.from(order, column => weighting[column]) : weighting)
  writeGridRecord(tables.grid.u8(), tables.grid.address, record)
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

type ChunkRegion = 'errors' | 'codes' | 'codeRows' | 'scales' | 'offsets' | 'losses'

type Tables = Readonly<Record<TableName, Region>>

/** Fits all groups of a panel. */
export const fitCall = (
  { job, shape }: Prepared,
  { list, weighting, grid }: Tables,
  panel: number,
  scales: number,
  offsets: number,
): Call => [
  'fitGroups',
  ...([panel, list.address, weighting.address, shape.size, shape.groups, grid.address, job.in] as const),
  ...([scales, offsets] as const),
]

/** The calls for panel i of a chunk: fit, round, back to rows. @param given parameters lie in their regions already */
const callsFor = (
  prepared: Prepared,
  tables: Tables,
  regions: Readonly<Record<ChunkRegion | 'panel', Region>>,
  i: number,
  given: boolean,
): Call[] => {
  const { job, shape, inSweep } = prepared
  const address = (name: TableName): number => tables[name].address
  const panel = regions.panel.address
  const codes = regions.codes.address
  const parameters = i * shape.groups * columnBytes
  const scales = regions.scales.address + parameters
  const offsets = regions.offsets.address + parameters
  const calls: Call[] = []
  if (!given && !inSweep) calls.push(fitCall(prepared, tables, panel, scales, offsets))
  if (job.rounding.name === 'gptq') {
    const errors = regions.errors.address
    const unit = inSweep ? shape.size : 0
    const known = [job.rounding.factor.address, scales, offsets, address('groupAt')] as const
    const fit = [address('list'), address('weighting'), address('grid')] as const
    calls.push(['sweep', panel, errors, codes, ...known, job.in, unit, ...fit])
    calls.push(['rowLoss', errors, job.in, regions.losses.address + i * 8 * panelRows])
  } else {
    calls.push(['roundNearest', panel, codes, scales, offsets, address('groupAt'), job.in, address('grid')])
  }
  calls.push(['codesToRows', codes, regions.codeRows.address + i * panelRows * job.in, address('place'), job.in])
  return calls
}

/** [panel][group][48] ↔ [row][group]: places of a chunk's parameters in a region and in the whole. */
const forEachParameter = (
  groups: number,
  { firstRow, rows }: Chunk,
  visit: (inRegion: number, inWhole: number) => void,
): void => {
  for (let row = 0; row < rows; row++) {
    const panel = Math.floor(row / panelRows) * groups * panelRows + (row % panelRows)
    for (let group = 0; group < groups; group++) visit(panel + group * panelRows, (firstRow + row) * groups + group)
  }
}

export const collectParameters = (from: Float32Array, into: Float32Array, groups: number, chunk: Chunk): void =>
  forEachParameter(groups, chunk, (inRegion, inWhole) => {
    into[inWhole] = from[inRegion]
  })

/** @param region whatever it held; rows that the chunk does not have get parameters that do no harm */
const spreadParameters = (from: Float32Array, region: Float32Array, groups: number, chunk: Chunk): void => {
  region.fill(1)
  forEachParameter(groups, chunk, (inRegion, inWhole) => {
    region[inRegion] = from[inWhole]
  })
}

/** Float32 scales [out, G] of all groups, each fitted by itself; 0 where a group holds zeros only. */
const fittedScales = async (kernels: Kernels, prepared: Prepared): Promise<Float32Array> => {
  const { job, shape, rule } = prepared
  const { groups } = shape
  const scales = new Float32Array(job.out * groups)
  const natural = { ...prepared, order: naturalOrder(job.in) }
  const tables = writeTables(kernels, natural, gridRecord({ ...rule, storage: fitStorage(rule.storage) }, 0))
  try {
    await forEachPanel<'scales' | 'offsets'>(kernels, job, {
      panelsPerChunk: panelsPerChunk(prepared, kernels.threads),
      place: tables.place.address,
      regions: panels => ({ scales: panels * groups * columnBytes, offsets: panels * groups * columnBytes }),
      calls(regions, i) {
        const at = i * groups * columnBytes
        const { panel, scales, offsets } = regions
        return [fitCall(natural, tables, panel.address, scales.address + at, offsets.address + at)]
      },
      collect: (regions, chunk) => collectParameters(regions.scales.f32(), scales, groups, chunk),
    })
  } finally {
    freeAll(tables)
  }
  return scales
}

/** Stands for a scale of 0, by which nothing can be divided. */
const nearZero = 1e-30

type Given = GroupParameters & Pick<CodedLinear, 'globalScale' | 'nested'>

/** Parameters that are known before the rounding pass; undefined where each group has its own. */
const givenParameters = async (kernels: Kernels, prepared: Prepared): Promise<Given | undefined> => {
  const { job, shape, rule, weighting, settled } = prepared
  const { grid, storage } = rule
  const count = job.out * shape.groups
  const middle = middleOf(grid)
  if (job.given) {
    const { scales, zeros, biases } = job.given
    if (storage.decode === 'affine') return { scales, offsets: zeros }
    // the biases of a symmetric grid follow from its scales: the kernels know it by its zero point
    if (grid.kind === 'levels' || grid.symmetric) return { scales, offsets: new Float32Array(count).fill(middle) }
    return { scales, offsets: biases }
  }
  if (settled) {
    const fitted = await fittedScales(kernels, prepared)
    const { scales, ...second } = settleScales(fitted, job.out, job.group, storage, reachOf(grid), job.shared)
    return { scales, offsets: new Float32Array(count).fill(middle), ...second }
  }
  if (!shape.joint || grid.kind === 'levels') return undefined
  const { scale, offset } = await fitTensor(kernels, job, weighting, { ...rule, grid })
  return { scales: new Float32Array(count).fill(scale), offsets: new Float32Array(count).fill(offset) }
}

const checkScales = ({ name, storage }: LinearJob, scales: Float32Array, groups: number): void => {
  if (storage.second) return // settled within its range
  const { largest } = scaleDtypes[storage.scaleDtype]
  const bad = scales.findIndex(scale => !(Math.abs(scale) <= largest))
  if (bad >= 0) checkScale(scales[bad], storage.scaleDtype, name, Math.floor(bad / groups))
}

/**
 * Reads a linear's weights and chooses its codes. Shared memory holds threads + 1 chunks of rows, whatever the linear's size.
 * @throws QuantizeError bad-input (a weight that is not finite, with its row and column), bad-option (parts that do not go together),
 *   unsupported (a group that does not divide, a scale beyond its dtype), exhausted
 */
export const quantizeLinear = async (kernels: Kernels, job: LinearJob): Promise<RoundedLinear> => {
  const prepared = prepare(job)
  const { shape, rule, groupOf } = prepared
  const { out, in: inputs, rounding } = job
  const { groups } = shape
  const given = await givenParameters(kernels, prepared)
  const codes = new Uint8Array(out * inputs)
  const scales = given?.scales ?? new Float32Array(out * groups)
  const offsets = given?.offsets ?? new Float32Array(out * groups)
  const sweepScales = job.given ? scales.map(scale => (scale === 0 ? nearZero : scale)) : scales
  const losses = new Float64Array(out)
  const tables = writeTables(kernels, prepared, gridRecord(rule, 1))
  const feedback = rounding.name === 'gptq'
  const panelJob: PanelJob<ChunkRegion> = {
    panelsPerChunk: panelsPerChunk(prepared, kernels.threads),
    place: tables.place.address,
    regions: panels => ({
      errors: feedback ? inputs * columnBytes : 0,
      codes: inputs * panelRows,
      codeRows: panels * panelRows * inputs,
      scales: panels * groups * columnBytes,
      offsets: panels * groups * columnBytes,
      losses: feedback ? panels * panelRows * 8 : 0,
    }),
    prepare(regions, chunk) {
      if (!given) return
      spreadParameters(sweepScales, regions.scales.f32(), groups, chunk)
      spreadParameters(offsets, regions.offsets.f32(), groups, chunk)
    },
    calls: (regions, i) => callsFor(prepared, tables, regions, i, given !== undefined),
    collect(regions, chunk) {
      const { firstRow, rows } = chunk
      codes.set(regions.codeRows.u8().subarray(0, rows * inputs), firstRow * inputs)
      if (feedback) losses.set(regions.losses.f64().subarray(0, rows), firstRow)
      if (given) return
      collectParameters(regions.scales.f32(), scales, groups, chunk)
      collectParameters(regions.offsets.f32(), offsets, groups, chunk)
    },
  }
  try {
    await forEachPanel(kernels, job, panelJob)
  } finally {
    freeAll(tables)
  }
  const loss = feedback ? losses.reduce((total, value) => total + value, 0) : undefined
  if (loss === undefined || Number.isFinite(loss)) checkScales(job, scales, groups)
  const linear = codedLinear(rule.grid, rule.storage, { out, in: inputs, codes, groupOf }, { scales, offsets })
  const { globalScale, nested } = given ?? {}
  const second = { ...(globalScale === undefined ? {} : { globalScale }), ...(nested ? { nested } : {}) }
  return { quantized: { ...linear, ...second }, loss }
}
