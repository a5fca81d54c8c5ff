/** Float32 values in JSON: little-endian, in base64. */
import { allFinite } from '../finite.ts'
import { bytesOf } from './bytes.ts'

export const toBase64 = (values: Float32Array): string => Buffer.from(bytesOf(values)).toString('base64')

/** @returns undefined when it is no whole number of float32, or one of them is NaN or infinite */
export const fromBase64 = (text: string): Float32Array | undefined => {
  const bytes = Uint8Array.from(Buffer.from(text, 'base64'))
  if (bytes.byteLength === 0 || bytes.byteLength % 4 !== 0) return undefined
  const values = new Float32Array(bytes.buffer)
  return allFinite(values) ? values : undefined
}
