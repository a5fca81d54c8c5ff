import type { LinearScheme, Storage } from '../../src/contracts.ts'
import { f16Storage } from '../helpers/linears.ts'

/** A linear of 4 bits, asymmetric. */
export const randomScheme = (
  out: number,
  inputs: number,
  group: number,
): { readonly scheme: LinearScheme; readonly storage: Storage } => ({
  scheme: {
    ...{ name: 'w', role: 'linear', out, in: inputs, dtype: 'F32', grid: 'int', bits: 4, symmetric: false },
    ...{ group, groups: inputs / group, actOrder: 'none' },
  },
  storage: f16Storage,
})
