/** IQ4_NL and IQ4_XS: quantize_row_iq4_nl_impl with 7 tries. */
import { clampTo, nearest, storeHalf } from './numbers'
import { packNibbles } from './pack'
import { CODES, SCALES, WEIGHTS } from './scratch'
import { extreme } from './search'
import { sumOfSquares, weighByImportance, weighBySquare } from './weigh'

const TINY: f32 = 1e-15
const TRIES: i32 = 7

/** The table by code: kvalues_iq4nl. No memory, since the module has no data. */
function level(code: i32): f32 {
  switch (code) {
    case 0:
      return -127
    case 1:
      return -104
    case 2:
      return -83
    case 3:
      return -65
    case 4:
      return -49
    case 5:
      return -35
    case 6:
      return -22
    case 7:
      return -10
    case 8:
      return 1
    case 9:
      return 13
    case 10:
      return 25
    case 11:
      return 38
    case 12:
      return 53
    case 13:
      return 69
    case 14:
      return 89
    default:
      return 113
  }
}

/** The nearest level's code, by bisection; the upper one of two that are as near (best_index_int8). */
function nearestLevel(x: f32): i32 {
  if (x <= -127) return 0
  if (x >= 113) return 15
  let low = 0
  let high = 15
  while (high - low > 1) {
    const middle = (low + high) >> 1
    if (x < level(middle)) high = middle
    else low = middle
  }
  return x - level(high - 1) < level(high) - x ? high - 1 : high
}

/** Σ w q x and Σ w q² of the codes of inverse · x. */
let sumXq: f32 = 0
let sumQ2: f32 = 0

function fitSums(x: usize, weights: usize, inverse: f32): void {
  sumXq = 0
  sumQ2 = 0
  for (let i: usize = 0; i < 32; i++) {
    const v = load<f32>(x + (i << 2))
    const q = level(nearestLevel(inverse * v))
    const w = load<f32>(weights + (i << 2))
    sumXq += w * q * v
    sumQ2 += w * q * q
  }
}

/** The scale of 32 values. */
function searchLevels(x: usize, weights: usize): f32 {
  const most = extreme(x, 32)
  if (abs(most) < TINY) return 0
  fitSums(x, weights, <f32>1 / (-most / <f32>-127))
  let d = sumXq / sumQ2
  let best = d * sumXq
  for (let k = -TRIES; k <= TRIES; k++) {
    fitSums(x, weights, (<f32>k + <f32>-127) / most)
    if (sumQ2 > 0 && sumXq * sumXq > best * sumQ2) {
      d = sumXq / sumQ2
      best = d * sumXq
    }
  }
  return d
}

function encode(x: usize, scale: f32, codes: usize): void {
  const inverse = scale !== 0 ? <f32>1 / scale : 0
  for (let i: usize = 0; i < 32; i++) store<u8>(codes + i, nearestLevel(inverse * load<f32>(x + (i << 2))))
}

function weigh(x: usize, importances: usize, variance: f32, weights: usize): void {
  if (importances) weighByImportance(x, importances, variance, 32, weights)
  else weighBySquare(x, 32, weights)
}

export function roundIq4Nl(x: usize, importances: usize, scratch: usize, out: usize): void {
  const variance = sumOfSquares(x, 32) * (<f32>2 / 32)
  weigh(x, importances, variance, scratch + WEIGHTS)
  const d = searchLevels(x, scratch + WEIGHTS)
  storeHalf(out, d)
  encode(x, d, scratch + CODES)
  packNibbles(scratch + CODES, 32, 16, out + 2)
}

export function roundIq4Xs(x: usize, importances: usize, scratch: usize, out: usize): void {
  const scales = scratch + SCALES
  const variance = sumOfSquares(x, 256) * (<f32>2 / 256)
  for (let j: usize = 0; j < 8; j++) {
    const from = x + (j << 7)
    weigh(from, importances ? importances + (j << 7) : 0, variance, scratch + WEIGHTS)
    store<f32>(scales + (j << 2), searchLevels(from, scratch + WEIGHTS))
  }
  const d = -extreme(scales, 8) / 32
  const inverse = d !== 0 ? <f32>1 / d : 0
  storeHalf(out, d)
  let high: u32 = 0
  memory.fill(out + 4, 0, 4)
  for (let j: usize = 0; j < 8; j++) {
    const l = clampTo(nearest(inverse * load<f32>(scales + (j << 2))), -32, 31)
    encode(x + (j << 7), d * l, scratch + CODES + 32 * j)
    const code = <u32>(<i32>l + 32)
    const low = out + 4 + (j >> 1)
    store<u8>(low, <u32>load<u8>(low) | ((code & 15) << (4 * (<u32>j & 1))))
    high |= (code >> 4) << (2 * <u32>j)
  }
  store<u16>(out + 2, high)
  packNibbles(scratch + CODES, 256, 16, out + 8)
}
