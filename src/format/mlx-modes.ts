/** MLX's modes (mlx/python/mlx/nn/layers/quantized.py): how words and scales of a module are to be read. */
import type { Bits, GridName, LinearScheme } from '../contracts.ts'
import type { OwnScaleDtype } from './grid-storage.ts'

export type ModeName = 'affine' | 'mxfp4' | 'mxfp8' | 'nvfp4'

/** How one module is stored. */
export interface MlxEntry {
  readonly mode: ModeName
  readonly bits: Bits
  readonly group: number
}

export interface Mode {
  readonly grid: GridName
  readonly bits: readonly Bits[]
  readonly groups: readonly number[]
  /** Of scales that take a byte; absent: floats, with biases beside them. */
  readonly scale?: Exclude<OwnScaleDtype, 'F32'>
  /** The first release of mlx that reads it. */
  readonly since?: string
  /** Taken where a module's entry says nothing. */
  readonly usual: { readonly bits: Bits; readonly group: number }
}

export const modes: Readonly<Record<ModeName, Mode>> = {
  affine: { grid: 'int', bits: [2, 3, 4, 5, 6, 8], groups: [32, 64, 128], usual: { bits: 4, group: 64 } },
  mxfp4: { grid: 'mxfp4', bits: [4], groups: [32], scale: 'E8M0', since: '0.29', usual: { bits: 4, group: 32 } },
  mxfp8: { grid: 'mxfp8', bits: [8], groups: [32], scale: 'E8M0', since: '0.30', usual: { bits: 8, group: 32 } },
  nvfp4: { grid: 'nvfp4', bits: [4], groups: [16], scale: 'E4M3', since: '0.30', usual: { bits: 4, group: 16 } },
}

export const modeNames = Object.keys(modes) as readonly ModeName[]

export const isModeName = (value: unknown): value is ModeName => (modeNames as readonly unknown[]).includes(value)

export const modeOf = ({ grid }: Pick<LinearScheme, 'grid'>): ModeName | undefined =>
  modeNames.find(name => modes[name].grid === grid)

/** Weights that share a scale. */
export const groupOf = ({ group, in: inputs }: LinearScheme): number => (typeof group === 'number' ? group : inputs)
