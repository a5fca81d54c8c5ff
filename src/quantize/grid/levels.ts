import type { LevelGrid, Storage } from '../../contracts.ts'
import { roundScale } from '../storage.ts'
import type { Coder } from './coder.ts'

const bits = new Int32Array(1)
const float = new Float32Array(bits.buffer)

/** The float32 just below x, x > 0 or x < 0. */
const below = (x: number): number => {
  float[0] = x
  bits[0] += x > 0 ? -1 : 1
  return float[0]
}

/** Which of two neighbours a value half-way between them goes to. */
export type Tie = (lower: number, upper: number) => 'lower' | 'upper'

/**
 * A grid from its codes' values.
 * @param levels [2^bits] the value of each code; NaN where there is none. Of two codes of one value (0 and −0) the first is written.
 * @param reach the value to which the largest magnitude of a group is scaled
 */
export const levelGrid = (name: LevelGrid['name'], levels: Float32Array, reach: number, tie: Tie): LevelGrid => {
  const known = [...levels]
    .map((value, code) => ({ value: value + 0, code }))
    .filter(({ value }) => !Number.isNaN(value))
  const sorted = known
    .sort((a, b) => a.value - b.value || a.code - b.code)
    .filter(({ value }, i, all) => i === 0 || value !== all[i - 1].value)
  const values = Float32Array.from(sorted, ({ value }) => value)
  const borders = Float32Array.from(values.subarray(1), (upper, i) => {
    const middle = Math.fround((values[i] + upper) / 2)
    return tie(values[i], upper) === 'lower' ? middle : below(middle)
  })
  return {
    kind: 'levels',
    name,
    bits: Math.log2(levels.length) as LevelGrid['bits'],
    values,
    codes: Uint8Array.from(sorted, ({ code }) => code),
    borders,
    levels,
    reach,
  }
}

/** How many borders lie below y: the index of its value. */
const indexOf = (borders: Float32Array, y: number): number => {
  let [low, high] = [0, borders.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if (y > borders[middle]) low = middle + 1
    else high = middle
  }
  return low
}

/** w = level[code] · scale, scale = absmax / reach, rounded to its storage before codes are chosen. */
export const levelCoder = (
  { values, borders, codes, levels, reach }: LevelGrid,
  { scaleDtype }: Storage,
  zeroScale: number,
): Coder => ({
  aroundZero: true,
  parameters({ low, high }) {
    const largest = Math.max(high, -low)
    return { scale: largest === 0 ? zeroScale : roundScale(Math.fround(largest / reach), scaleDtype), offset: 0 }
  },
  encode: (weight, { scale }) => codes[indexOf(borders, Math.fround(weight / scale))],
  decode: (code, { scale }) => Math.fround(levels[code] * scale),
  residual(weight, _, inverse) {
    const y = Math.fround(weight * inverse)
    return Math.fround(y - values[indexOf(borders, y)])
  },
})
