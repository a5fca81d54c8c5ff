import type { QuantizedLinear } from '../contracts.ts'

/** Ends of the runs of equal groups: [[end, group], …] covering all columns. */
const runsOf = (groupOf: Int32Array): readonly (readonly [end: number, group: number])[] => {
  const runs: [number, number][] = []
  for (let column = 0; column < groupOf.length; column++) {
    const last = runs[runs.length - 1]
    if (last && last[1] === groupOf[column]) last[0] = column + 1
    else runs.push([column + 1, groupOf[column]])
  }
  return runs
}

/**
 * The one definition of what codes mean: W = (q − z) · s, rounded once to float32 (the difference of two codes is exact).
 * @param into [out, in], when given
 * @returns [out, in], row-major
 */
export const dequantize = (linear: QuantizedLinear, into = new Float32Array(linear.out * linear.in)): Float32Array => {
  const { out, in: inputs, codes, scales, zeros, groupOf } = linear
  const groups = scales.length / out
  const runs = runsOf(groupOf)
  for (let row = 0; row < out; row++) {
    let at = row * inputs
    for (const [end, group] of runs) {
      const scale = scales[row * groups + group]
      const zero = zeros[row * groups + group]
      for (const stop = row * inputs + end; at < stop; at++) into[at] = (codes[at] - zero) * scale
    }
  }
  return into
}
