/** Grids of small floating-point numbers, and NormalFloat. Values and codes: OCP FP8 and MX specifications; bitsandbytes/functional.py. */
import { e2m1Values, e4m3Values, e5m2Values } from '../../dtype/small-floats.ts'
import { levelGrid, type Tie } from './levels.ts'

const even =
  (levels: Float32Array): Tie =>
  (lower, upper) => {
    const codeOf = (value: number): number => levels.findIndex(level => level === value)
    // neighbours' codes differ by one in the last place of the mantissa: one of them is even. Of the two zeros either will do.
    return codeOf(lower) % 2 === 0 || lower === upper ? 'lower' : 'upper'
  }

const toLower: Tie = () => 'lower'

/** NormalFloat 4 (QLoRA, arXiv 2305.14314), as bitsandbytes stores it. */
export const nf4Levels = Float32Array.of(
  ...[-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334],
  ...[-0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224],
  ...[0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1],
)

const bnbMagnitudes = [0, 0.0625 / 12, 8 / 12, 1, 4 / 12, 6 / 12, 2 / 12, 3 / 12]
/** bitsandbytes' FP4 by code: its smallest value is not that of E2M1. */
export const bnbFp4Levels = Float32Array.of(...bnbMagnitudes, ...bnbMagnitudes.map(value => -value))

const e2m1 = e2m1Values()
const e4m3 = e4m3Values()
const e5m2 = e5m2Values()

export const fp8 = levelGrid('fp8', e4m3, 448, even(e4m3))
export const fp8E5m2 = levelGrid('fp8-e5m2', e5m2, 57344, even(e5m2))
export const fp4 = levelGrid('fp4', e2m1, 6, even(e2m1))
export const nf4 = levelGrid('nf4', nf4Levels, 1, toLower)
export const bnbFp4 = levelGrid('bnb-fp4', bnbFp4Levels, 1, toLower)
export const nvfp4 = levelGrid('nvfp4', e2m1, 6, even(e2m1))
/** OCP MX: the scale is the power of two of the largest magnitude over that of the element's largest (4 of 6, 256 of 448); storage.ts rounds it. */
export const mxfp4 = levelGrid('mxfp4', e2m1, 4, even(e2m1))
export const mxfp8 = levelGrid('mxfp8', e4m3, 256, even(e4m3))
