import type { ClipName } from '../../contracts.ts'

/** How a group's range is chosen: its min-max range times the shrink factor that loses least. */
export interface Clip {
  readonly name: ClipName
  /** float32; the first is 1. One factor: nothing is searched. Otherwise their number is even. */
  readonly shrinks: Float32Array
}
