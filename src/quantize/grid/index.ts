import type { Bits, Grid, GridName, LevelGrid, Storage } from '../../contracts.ts'
import type { Coder } from './coder.ts'
import { bnbFp4, fp4, fp8, fp8E5m2, iq4, mxfp4, mxfp8, nf4, nvfp4 } from './floats.ts'
import { levelCoder } from './levels.ts'
import { affineCoder, biasedCoder, uniformGrid } from './uniform.ts'

/** The grids that are tables, by name. */
export const levelGrids: Readonly<Record<LevelGrid['name'], LevelGrid>> = {
  fp8,
  'fp8-e5m2': fp8E5m2,
  fp4,
  nf4,
  'bnb-fp4': bnbFp4,
  nvfp4,
  mxfp4,
  mxfp8,
  iq4,
}

/** @param bits and @param symmetric of the integers; tables have their own */
export const gridNamed = (name: GridName, bits: Bits, symmetric: boolean): Grid =>
  name === 'int' ? uniformGrid(bits, symmetric) : levelGrids[name]

/**
 * How a storage decodes a grid's codes. Symmetric integers need no range of their own in a biased storage: b = −2^(bits − 1) · s.
 * @param zeroScale the scale of a group of zeros: 1 to code with it, 0 where scales are still to be settled (settle.ts)
 */
export const coderOf = (grid: Grid, storage: Storage, zeroScale: 0 | 1 = 1): Coder => {
  if (grid.kind === 'levels') return levelCoder(grid, storage, zeroScale)
  if (storage.decode === 'biased' && !grid.symmetric) return biasedCoder(grid, storage)
  return affineCoder(grid, storage, zeroScale)
}

/** The code that stands for 0 in a symmetric grid of integers; 0 of a table, which has none. */
export const middleOf = (grid: Grid): number => (grid.kind === 'levels' ? 0 : 2 ** (grid.bits - 1))

/** What the largest magnitude of a symmetric group is divided by. */
export const reachOf = (grid: Grid): number => (grid.kind === 'levels' ? grid.reach : ((1 << grid.bits) - 1) / 2)
