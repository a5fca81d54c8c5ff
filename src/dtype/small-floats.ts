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

const e4m3Codes = new Map(
  [...e4m3Values()].flatMap((value, code) => (value >= 0 && code < 128 ? [[value, code] as const] : [])),
)

/** The byte of a value of FP8 E4M3, not negative. @throws Error for a number that is none (a bug of the caller) */
export const e4m3Byte = (value: number): number => {
  const code = e4m3Codes.get(value)
  if (code === undefined) throw new Error(`${value} is no value of E4M3`)
  return code
}

const word = new Uint32Array(1)
const float = new Float32Array(word.buffer)

/** The exponent byte of a power of two (E8M0). @throws Error for another number (a bug of the caller) */
export const e8m0Byte = (value: number): number => {
  float[0] = value
  if (word[0] === 0x400000) return 0 // 2^−127, subnormal
  if ((word[0] & 0x807fffff) !== 0 || word[0] === 0) throw new Error(`${value} is no power of two that E8M0 holds`)
  return word[0] >>> 23
}

/** 2^(byte − 127); NaN for 255. */
export const e8m0Value = (byte: number): number => (byte === 255 ? Number.NaN : 2 ** (byte - 127))

/** FP8 E5M2 [256]: its infinities (0x7C, 0xFC) are no values here, largest 57344. */
export const e5m2Values = (): Float32Array => signedValues(8, 2, 15, 0x7b)

/** FP4 E2M1 [16]: 0, 0.5, 1, 1.5, 2, 3, 4, 6. */
export const e2m1Values = (): Float32Array => signedValues(4, 1, 1, 7)

/** NormalFloat 4 (QLoRA, arXiv 2305.14314), as bitsandbytes stores it. */
export const nf4Levels = Float32Array.of(
  ...[-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334],
  ...[-0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224],
  ...[0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1],
)

const bnbMagnitudes = [0, 0.0625 / 12, 8 / 12, 1, 4 / 12, 6 / 12, 2 / 12, 3 / 12]
/** bitsandbytes' FP4 by code, as it stores them: the smallest value is not that of E2M1, and code 8 is 0, not −0. */
export const bnbFp4Levels = Float32Array.of(...bnbMagnitudes, ...bnbMagnitudes.map(value => 0 - value))
