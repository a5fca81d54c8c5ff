/** The layout that the kernels share with the host (assembly/layout.ts, levels.ts, measure.ts). */

/** Rows of a panel. */
export const panelRows = 48
/** Bytes of a column of a panel of float32. */
export const columnBytes = 4 * panelRows

/** How a float32 is rounded to a narrower dtype (quantize/storage.ts). */
export interface NarrowingRecord {
  readonly shift: number
  readonly add: number
  readonly even: number
  readonly limit: number
  readonly magic: number
}

/** A grid that is a table: ascending values, their codes, and the borders between them. */
export interface LevelRecord {
  readonly values: Float32Array
  readonly codes: Uint8Array
  readonly borders: Float32Array
  readonly reach: number
}

/** How a group's range becomes its parameters: what the kernels need to know of grid, clip and storage. */
export interface GridRecord {
  readonly kind: 'affine' | 'symmetric' | 'biased' | 'levels'
  /** 0 for levels. */
  readonly maxCode: number
  readonly zeroRange: readonly [number, number]
  readonly scale: NarrowingRecord
  /** Smallest scale. */
  readonly scaleFloor: number
  readonly bias: NarrowingRecord
  /** Scale of a group of zeros. */
  readonly zeroScale: number
  readonly levels?: LevelRecord
  /** Shrink factors: one, or an even number. */
  readonly shrinks: Float32Array
}

const kinds = { affine: 0, symmetric: 1, biased: 2, levels: 3 } as const

const shrinkAt = 80

/** Places of a table: a power of two, more than there are borders. */
const placesFor = ({ values }: LevelRecord): number => (values.length <= 16 ? 16 : 256)

const tableBytes = (levels: LevelRecord | undefined): number => (levels ? 16 + 9 * placesFor(levels) : 0)

export const gridRecordBytes = ({ shrinks, levels }: GridRecord): number =>
  shrinkAt + 4 * shrinks.length + tableBytes(levels)

const writeNarrowing = (view: DataView, at: number, { shift, add, even, limit, magic }: NarrowingRecord): void => {
  view.setInt32(at, shift, true)
  view.setInt32(at + 4, add, true)
  view.setInt32(at + 8, even, true)
  view.setFloat32(at + 12, limit, true)
  view.setFloat32(at + 16, magic, true)
}

const writeTable = (view: DataView, at: number, levels: LevelRecord): void => {
  const places = placesFor(levels)
  view.setInt32(at, places / 2, true)
  for (let place = 0; place < places; place++) {
    view.setFloat32(at + 16 + 4 * place, levels.borders[place] ?? Number.POSITIVE_INFINITY, true)
    view.setFloat32(at + 16 + 4 * (places + place), levels.values[place] ?? 0, true)
    view.setUint8(at + 16 + 8 * places + place, levels.codes[place] ?? 0)
  }
}

/** Writes the record into a region of its size, which begins at `address` of the shared memory. */
export const writeGridRecord = (bytes: Uint8Array, address: number, record: GridRecord): void => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const { kind, maxCode, zeroRange, scale, scaleFloor, bias, zeroScale, levels, shrinks } = record
  const table = shrinkAt + 4 * shrinks.length
  view.setFloat32(0, maxCode, true)
  view.setInt32(4, kinds[kind], true)
  view.setFloat32(8, (maxCode + 1) / 2, true)
  view.setFloat32(12, zeroRange[0], true)
  view.setFloat32(16, zeroRange[1], true)
  view.setFloat32(20, scaleFloor, true)
  writeNarrowing(view, 24, scale)
  writeNarrowing(view, 44, bias)
  view.setFloat32(64, zeroScale, true)
  view.setFloat32(68, levels?.reach ?? 1, true)
  view.setUint32(72, address + table, true)
  view.setInt32(76, shrinks.length, true)
  for (const [i, shrink] of shrinks.entries()) view.setFloat32(shrinkAt + 4 * i, shrink, true)
  if (levels) writeTable(view, table, levels)
}

/** How codes become weights, and which of them are the outermost. */
export interface DecodeRecord {
  readonly decode: 'affine' | 'biased' | 'levels'
  readonly lowCode: number
  readonly highCode: number
  /** What these codes stand for before scaling, and half of the step before each. */
  readonly lowLevel: number
  readonly highLevel: number
  readonly lowHalf: number
  readonly highHalf: number
  /** [2^bits] of `levels`. */
  readonly levels: Float32Array
}

const decodings = { affine: 0, biased: 1, levels: 2 } as const

export const decodeRecordBytes = ({ levels }: DecodeRecord): number => 32 + 4 * levels.length

export const writeDecodeRecord = (bytes: Uint8Array, record: DecodeRecord): void => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  view.setInt32(0, decodings[record.decode], true)
  view.setInt32(4, record.lowCode, true)
  view.setInt32(8, record.highCode, true)
  view.setFloat32(12, record.lowLevel, true)
  view.setFloat32(16, record.highLevel, true)
  view.setFloat32(20, record.lowHalf, true)
  view.setFloat32(24, record.highHalf, true)
  for (const [code, level] of record.levels.entries()) view.setFloat32(32 + 4 * code, level, true)
}
