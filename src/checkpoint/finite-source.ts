import type { TensorSource } from '../contracts.ts'
import { dtypeBits } from '../dtype/dtype.ts'

/** Bits that are all set in a value that is NaN or infinite. */
const exponents = { BF16: 0x7f80, F16: 0x7c00, F32: 0x7f800000 } as const

export interface FiniteSource {
  readonly source: TensorSource
  /** Values that were not finite, in all reads so far. */
  zeroed(): number
}

/** Takes 0 for values that are not finite; returns how many that were. */
const zeroIn = (values: Uint16Array | Uint32Array, exponent: number): number => {
  let zeroed = 0
  for (let i = 0; i < values.length; i++)
    if ((values[i] & exponent) === exponent) {
      values[i] = 0
      zeroed++
    }
  return zeroed
}

/** The tensor with 0 for every value that is NaN or infinite. Only whole values may be read. @param source BF16, F16 or F32 */
export const finiteSource = (source: TensorSource): FiniteSource => {
  const exponent = exponents[source.dtype as keyof typeof exponents]
  const size = dtypeBits[source.dtype] / 8
  let zeroed = 0
  const read: TensorSource['read'] = (start, end, into) => {
    const bytes = source.read(start, end, into)
    const whole = bytes.byteOffset % size === 0 ? bytes : bytes.slice()
    const View = size === 2 ? Uint16Array : Uint32Array
    zeroed += zeroIn(new View(whole.buffer as ArrayBuffer, whole.byteOffset, whole.byteLength / size), exponent)
    if (whole !== bytes) bytes.set(whole)
    return bytes
  }
  return { source: { ...source, read }, zeroed: () => zeroed }
}
