/** The layout that the kernels share with the host (assembly/layout.ts). */

/** Rows of a panel. */
export const panelRows = 48
/** Bytes of a column of a panel of float32. */
export const columnBytes = 4 * panelRows

/** How a group's range becomes (scale, zero): what the kernels need to know of grid, clip and storage. */
export interface GridRecord {
  readonly maxCode: number
  readonly symmetric: boolean
  readonly zeroRange: readonly [number, number]
  /** Low bits of a float32 that the scale's dtype lacks. */
  readonly scaleShift: number
  /** Smallest scale. */
  readonly scaleFloor: number
  /** Shrink factors: one, or an even number. */
  readonly shrinks: Float32Array
}

export const gridRecordBytes = (record: GridRecord): number => 32 + 4 * record.shrinks.length

/** Writes the record into a region of its size. */
export const writeGridRecord = (bytes: Uint8Array, record: GridRecord): void => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  view.setFloat32(0, record.maxCode, true)
  view.setInt32(4, record.symmetric ? 1 : 0, true)
  view.setFloat32(8, (record.maxCode + 1) / 2, true)
  view.setFloat32(12, record.zeroRange[0], true)
  view.setFloat32(16, record.zeroRange[1], true)
  view.setInt32(20, record.scaleShift, true)
  view.setFloat32(24, record.scaleFloor, true)
  view.setInt32(28, record.shrinks.length, true)
  for (const [i, shrink] of record.shrinks.entries()) view.setFloat32(32 + 4 * i, shrink, true)
}
