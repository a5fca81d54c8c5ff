/** Scales as bytes of the dtype in which a grid keeps them, and back. */
import { toFloat32 } from '../dtype/convert.ts'
import type { Dtype } from '../dtype/dtype.ts'
import { e4m3Values } from '../dtype/small-floats.ts'
import type { OwnScaleDtype } from './grid-storage.ts'

export const scaleTensorDtype = {
  F32: 'F32',
  E4M3: 'F8_E4M3',
  E8M0: 'F8_E8M0',
} as const satisfies Readonly<Record<OwnScaleDtype, Dtype>>

/** By code: powers of two, 2^(code − 127); 255 is NaN (OCP Microscaling, E8M0). */
const e8m0Values = (): Float32Array =>
  Float32Array.from({ length: 256 }, (_, code) => (code === 255 ? Number.NaN : 2 ** (code - 127)))

const values = { E4M3: e4m3Values(), E8M0: e8m0Values() }

const codesOf = (table: Float32Array): ReadonlyMap<number, number> =>
  new Map([...table].map((value, code) => [value, code] as const).reverse()) // of 0 and −0 the first counts

const codes = { E4M3: codesOf(values.E4M3), E8M0: codesOf(values.E8M0) }

/** @throws Error for a scale that the dtype does not hold exactly: `fit` rounds them before */
export const scaleBytes = (scales: Float32Array, dtype: OwnScaleDtype): Uint8Array => {
  if (dtype === 'F32') return new Uint8Array(scales.slice().buffer)
  return Uint8Array.from(scales, scale => {
    const code = Number.isNaN(scale) ? undefined : codes[dtype].get(scale)
    if (code === undefined) throw new Error(`${dtype} does not hold a scale of ${scale}`)
    return code
  })
}

/** The inverse of `scaleBytes`; NaN for codes that are no number. */
export const scalesFrom = (bytes: Uint8Array, dtype: OwnScaleDtype): Float32Array =>
  dtype === 'F32' ? toFloat32(bytes, 'F32') : Float32Array.from(bytes, code => values[dtype][code])
