import { QuantizeError } from '../errors.ts'

/** A stream of unsigned 32-bit integers: the same for the same seed on every machine. */
export type Random = () => number

/**
 * SplitMix32: a counter with the step 0x9e3779b9 (2^32 divided by the golden ratio), each value mixed by two rounds of xor, shift
 * and multiply; the multipliers are those of the least biased two-round hash known. Only 32-bit integer arithmetic; period 2^32.
 * @param seed an integer in [0, 2^32)
 * @throws QuantizeError bad-option for any other seed
 */
export function randomFrom(seed: number): Random {
  if (!Number.isInteger(seed) || seed < 0 || seed > 0xffff_ffff) {
    throw new QuantizeError('bad-option', `--seed ${seed}: give an integer from 0 to 4294967295`)
  }
  let state = seed | 0
  return () => {
    state = (state + 0x9e3779b9) | 0
    let z = state
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad)
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97)
    return (z ^ (z >>> 15)) >>> 0
  }
}

/** A uniform integer in [0, bound), 0 < bound ≤ 2^32. Values of the last, incomplete range are drawn again, so that none is favoured. */
export function below(random: Random, bound: number): number {
  const whole = 0x1_0000_0000 - (0x1_0000_0000 % bound)
  let value = random()
  while (value >= whole) value = random()
  return value % bound
}

/**
 * The first `count` places of a random order of 0 … length − 1 (Fisher–Yates from the front): the draw of n is the start of the draw of n + 1.
 */
export function drawIndices(random: Random, length: number, count: number): Uint32Array {
  const order = Uint32Array.from({ length }, (_, index) => index)
  for (let i = 0; i < count; i++) {
    const j = i + below(random, length - i)
    const drawn = order[j]
    order[j] = order[i]
    order[i] = drawn
  }
  return order.subarray(0, count)
}
