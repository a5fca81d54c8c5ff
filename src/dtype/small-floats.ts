/** The values of small floating-point codes, sign in the highest bit (OCP 8-bit floating point and Microscaling specifications). */

/** Magnitude of `code` with so many mantissa bits, exponent bias `bias`; subnormals where the exponent is 0. */
const magnitude = (code: number, mantissaBits: number, bias: number): number => {
  const mantissa = code & ((1 << mantissaBits) - 1)
  const exponent = code >> mantissaBits
  const unit = 2 ** -mantissaBits
  return exponent === 0 ? mantissa * unit * 2 ** (1 - bias) : (1 + mantissa * unit) * 2 ** (exponent - bias)
}

/** [2^bits] by code; NaN for codes whose magnitude is above `last`. */
const signedValues = (bits: number, mantissaBits: number, bias: number, last: number): Float32Array => {
  const half = 1 << (bits - 1)
  return Float32Array.from({ length: 2 * half }, (_, code) => {
    const low = code % half
    if (low > last) return Number.NaN
    return code < half ? magnitude(low, mantissaBits, bias) : -magnitude(low, mantissaBits, bias)
  })
}

/** FP8 E4M3FN [256]: no infinity, 0x7F and 0xFF are NaN, largest 448. */
export const e4m3Values = (): Float32Array => signedValues(8, 3, 7, 0x7e)

/** FP8 E5M2 [256]: its infinities (0x7C, 0xFC) are no values here, largest 57344. */
export const e5m2Values = (): Float32Array => signedValues(8, 2, 15, 0x7b)

/** FP4 E2M1 [16]: 0, 0.5, 1, 1.5, 2, 3, 4, 6. */
export const e2m1Values = (): Float32Array => signedValues(4, 1, 1, 7)
