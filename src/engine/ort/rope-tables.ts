/**
 * Cosine and sine tables of rotary embeddings. They reach the calibration statistics and so the codes of a checkpoint: own sine
 * and cosine in float64 with + − × ÷ only, because the host's differ between versions in the last bits.
 */
import type { Rope } from '../../contracts.ts'

// π/2 = high + middle + low; high and middle carry 33 bits each, so that n·high and n·middle are exact for n < 2^20 (fdlibm's split)
const halfPi = [1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21] as const

/** Taylor coefficients ±1/k!, k falling in steps of 2 to the power of the first term. */
const taylor = (first: 0 | 1): readonly number[] => {
  const coefficients = [1]
  for (let k = first; k < 18; k += 2) coefficients.push(-coefficients.at(-1)! / ((k + 1) * (k + 2)))
  return coefficients.reverse()
}
const cosTaylor = taylor(0)
const sinTaylor = taylor(1)

const polynomial = (coefficients: readonly number[], x: number): number =>
  coefficients.reduce((sum, coefficient) => sum * x + coefficient, 0)

/** [cos, sin] of an angle in radians, |angle| < 2^20, to about 2e-16. */
export const cosSin = (angle: number): readonly [number, number] => {
  const turns = Math.round(angle / (halfPi[0] + halfPi[1]))
  const rest = angle - turns * halfPi[0] - turns * halfPi[1] - turns * halfPi[2]
  const square = rest * rest
  const cos = polynomial(cosTaylor, square)
  const sin = rest * polynomial(sinTaylor, square)
  const quadrant = ((turns % 4) + 4) % 4
  if (quadrant === 0) return [cos, sin]
  if (quadrant === 1) return [-sin, cos]
  return quadrant === 2 ? [-cos, -sin] : [sin, -cos]
}

/** Tables [seqLen, headDim / 2]; the angle position × frequency is rounded to float32, as transformers computes it. */
export const ropeTables = (
  { frequencies, attentionFactor }: Rope,
  seqLen: number,
): { readonly cos: Float32Array; readonly sin: Float32Array } => {
  const half = frequencies.length
  const cos = new Float32Array(seqLen * half)
  const sin = new Float32Array(seqLen * half)
  for (let position = 0; position < seqLen; position++) {
    for (let i = 0; i < half; i++) {
      const [c, s] = cosSin(Math.fround(position * frequencies[i]))
      cos[position * half + i] = c * attentionFactor
      sin[position * half + i] = s * attentionFactor
    }
  }
  return { cos, sin }
}
