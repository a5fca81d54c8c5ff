import type { CodedLinear, QuantizedLinear } from './contracts.ts'
import { decodedBlocks } from './gguf/coded.ts'

/** Runs of columns of one group, covering all columns. */
export const groupRuns = (groupOf: Int32Array): readonly (readonly [length: number, group: number])[] => {
  const runs: [number, number][] = []
  for (let column = 0; column < groupOf.length; column++) {
    const last = runs[runs.length - 1]
    if (last && last[1] === groupOf[column]) last[0]++
    else runs.push([1, groupOf[column]])
  }
  return runs
}

/** Decodes elements [start, end), a run of one row, with the parameters at `at`. */
type DecodeRun = (linear: CodedLinear, into: Float32Array, start: number, end: number, at: number) => void

/** Each a loop of its own outside the nest: V8 makes it twice as fast there (0.8 against 1.8 ns a weight). */
const decodeRuns: Readonly<Record<CodedLinear['decode'], DecodeRun>> = {
  affine({ codes, scales, zeros }, into, start, end, at) {
    const scale = scales[at]
    const zero = zeros[at]
    // the difference of an integer zero point and a code is exact; of a real one it is rounded
    for (let i = start; i < end; i++) into[i] = Math.fround(codes[i] - zero) * scale
  },
  biased({ codes, scales, biases }, into, start, end, at) {
    const scale = scales[at]
    const bias = biases[at]
    for (let i = start; i < end; i++) into[i] = Math.fround(codes[i] * scale) + bias
  },
  levels({ codes, scales, levels }, into, start, end, at) {
    const scale = scales[at]
    for (let i = start; i < end; i++) into[i] = levels[codes[i]] * scale
  },
}

/**
 * The one definition of what codes mean (contracts.ts, `Decode`): each operation rounded to float32.
 * @param into [out, in], when given
 * @returns [out, in], row-major
 */
export const dequantize = (
  linear: QuantizedLinear,
  into: Float32Array = new Float32Array(linear.out * linear.in),
): Float32Array => {
  if (linear.decode === 'dense') {
    into.set(linear.values)
    return into
  }
  if (linear.decode === 'blocks') return dequantize(decodedBlocks(linear), into)
  const { out, in: inputs, scales, groupOf } = linear
  const groups = scales.length / out
  const runs = groupRuns(groupOf)
  const decodeRun = decodeRuns[linear.decode]
  for (let row = 0; row < out; row++) {
    let start = row * inputs
    for (const [length, group] of runs) {
      decodeRun(linear, into, start, start + length, row * groups + group)
      start += length
    }
  }
  return into
}
