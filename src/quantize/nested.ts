import type { CodedLinear, NestedScales } from '../contracts.ts'
import { dynamicMap } from '../dtype/dynamic-map.ts'

/** Scales of a nested block. */
export const nestedBlock = 256

const map = dynamicMap()

/** The nearest value's place; a tie goes to the lower one. */
const nearest = (x: number): number => {
  let [low, high] = [0, map.length - 1]
  while (high - low > 1) {
    const middle = (low + high) >> 1
    if (x < map[middle]) high = middle
    else low = middle
  }
  return x - map[low] <= map[high] - x ? low : high
}

/** The scales that nested ones stand for: map[code] · absmax + offset, each operation rounded to float32. */
export const unnest = ({ codes, absmax, offset }: NestedScales): Float32Array =>
  Float32Array.from(codes, (code, i) =>
    Math.fround(Math.fround(map[code] * absmax[Math.floor(i / nestedBlock)]) + offset),
  )

/**
 * bitsandbytes' double quantization (QLoRA, arXiv 2305.14314, §3): the mean is taken off, and blocks of 256 are coded by their largest
 * magnitude with the dynamic map. A scale that came out as 0 or less (possible where scales differ by orders of magnitude) is raised to
 * the smallest positive one of its block.
 */
export const nestScales = (scales: Float32Array): Pick<CodedLinear, 'scales' | 'nested'> => {
  const offset = Math.fround(scales.reduce((sum, scale) => sum + scale, 0) / scales.length)
  const codes = new Uint8Array(scales.length)
  const absmax = new Float32Array(Math.ceil(scales.length / nestedBlock))
  for (const block of absmax.keys()) {
    const part = scales.subarray(block * nestedBlock, (block + 1) * nestedBlock)
    const largest = part.reduce((most, scale) => Math.max(most, Math.abs(Math.fround(scale - offset))), 0)
    absmax[block] = largest
    for (const [i, scale] of part.entries()) {
      let code = largest === 0 ? nearest(0) : nearest(Math.fround(Math.fround(scale - offset) / largest))
      while (Math.fround(Math.fround(map[code] * largest) + offset) <= 0 && code < 255) code++
      codes[block * nestedBlock + i] = code
    }
  }
  const nested = { codes, absmax, offset }
  return { scales: unnest(nested), nested }
}
