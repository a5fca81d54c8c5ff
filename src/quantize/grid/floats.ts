/** Grids of small floating-point numbers, and NormalFloat. Values and codes: OCP FP8 and MX specifications; bitsandbytes/functional.py. */
import { bnbFp4Levels, e2m1Values, e4m3Values, e5m2Values, nf4Levels } from '../../dtype/small-floats.ts'
import { iq4Levels } from '../../gguf/coded.ts'
import { levelGrid, type Tie } from './levels.ts'

const even =
  (levels: Float32Array): Tie =>
  (lower, upper) => {
    const codeOf = (value: number): number => levels.indexOf(value)
    // neighbours' codes differ by one in the last place of the mantissa: one of them is even. Of the two zeros either will do.
    return codeOf(lower) % 2 === 0 || lower === upper ? 'lower' : 'upper'
  }

const toLower: Tie = () => 'lower'

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
/** ggml's table of IQ4_NL (ggml-common.h, kvalues_iq4nl), which reaches further below 0 than above. */
export const iq4 = levelGrid('iq4', iq4Levels, 113, () => 'upper')
