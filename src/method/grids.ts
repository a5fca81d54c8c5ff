import type { Bits, GridName, Group } from '../contracts.ts'

/** What a grid settles, or prefers over a method's preset. */
export interface GridPreset {
  /** The one width of its codes; absent: any. */
  readonly bits?: Bits
  readonly group?: Group
  /** The format that most runtimes load it from. */
  readonly format?: string
  readonly summary: string
}

export const gridPresets: Readonly<Record<GridName, GridPreset>> = {
  int: { summary: 'integers' },
  fp8: { bits: 8, group: 'channel', format: 'compressed-tensors', summary: 'FP8 E4M3 (OCP)' },
  'fp8-e5m2': { bits: 8, group: 'channel', format: 'quanto', summary: 'FP8 E5M2 (OCP)' },
  fp4: { bits: 4, group: 32, format: 'codebook', summary: 'FP4 E2M1' },
  nf4: { bits: 4, group: 64, format: 'bnb', summary: 'NormalFloat (QLoRA, arXiv 2305.14314)' },
  'bnb-fp4': { bits: 4, group: 64, format: 'bnb', summary: "bitsandbytes' FP4" },
  nvfp4: { bits: 4, group: 16, format: 'compressed-tensors', summary: 'E2M1 under E4M3 scales and one scale a tensor' },
  mxfp4: { bits: 4, group: 32, format: 'compressed-tensors', summary: 'E2M1 under powers of two (OCP MX)' },
  iq4: { bits: 4, group: 32, format: 'codebook', summary: "ggml's table of IQ4_NL" },
  mxfp8: { bits: 8, group: 32, format: 'compressed-tensors', summary: 'E4M3 under powers of two (OCP MX)' },
}

export const gridNames = Object.keys(gridPresets) as readonly GridName[]
