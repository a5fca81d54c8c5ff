/** Storage where the format itself sets no limits: each grid's codes in their own form, parameters in float32 unless the grid says otherwise. */
import type { Bits, GridName, LinearScheme, Storage } from '../contracts.ts'

/** Bits of the codes of grids that are tables. */
export const tableBits: Readonly<Record<Exclude<GridName, 'int'>, Bits>> = {
  fp8: 8,
  'fp8-e5m2': 8,
  fp4: 4,
  nf4: 4,
  'bnb-fp4': 4,
  nvfp4: 4,
  mxfp4: 4,
  mxfp8: 8,
  iq4: 4,
}

export const everyGrid: readonly GridName[] = ['int', ...(Object.keys(tableBits) as (keyof typeof tableBits)[])]

export const everyBits: readonly Bits[] = [1, 2, 3, 4, 5, 6, 7, 8]

/** Dtypes in which such a storage keeps scales. */
export type OwnScaleDtype = 'F32' | 'E4M3' | 'E8M0'

export const ownScaleDtype = ({ grid }: Pick<LinearScheme, 'grid'>): OwnScaleDtype => {
  if (grid === 'nvfp4') return 'E4M3'
  return grid === 'mxfp4' || grid === 'mxfp8' ? 'E8M0' : 'F32'
}

/** NVFP4 is E2M1 under E4M3 scales under one float32, MX under powers of two: these are part of the grid. */
export const gridStorage = (scheme: Pick<LinearScheme, 'grid' | 'bits'>): Storage => {
  const { grid, bits } = scheme
  if (grid === 'int') return { decode: 'affine', scaleDtype: 'F32', zeroRange: [0, (1 << bits) - 1] }
  return {
    decode: 'levels',
    scaleDtype: ownScaleDtype(scheme),
    ...(grid === 'nvfp4' ? { second: 'global' as const } : {}),
  }
}
