/**
 * Scales that are decided from all of a tensor's: shared by squares of rows and columns, or standing under a second level. Each group is
 * fitted by itself first, in float32; then these become the scales in effect, before any code is chosen.
 */
import type { CodedLinear, Group, Storage } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import type { FitRule } from './fit.ts'
import { blockSize } from './granularity.ts'
import { nestScales } from './nested.ts'
import { roundScale } from './storage.ts'

/** Whether scales wait for those of the whole tensor. */
export const isSettled = (group: Group, { grid, storage }: FitRule): boolean =>
  group === 'block' || storage.second !== undefined || (group === 'tensor' && grid.kind === 'levels')

/** What the groups are fitted with before that. */
export const fitStorage = (storage: Storage): Storage => ({ ...storage, scaleDtype: 'F32', second: undefined })

/** @throws QuantizeError bad-option for what has no one scale a block or tensor */
export const checkSettled = (group: Group, { grid, clip, storage }: FitRule): void => {
  if (group === 'tensor' && grid.kind === 'uniform' && !grid.symmetric && storage.decode === 'biased')
    throw new QuantizeError(
      'bad-option',
      '--group tensor: a bias belongs to a group of columns; use --sym, or --group channel',
    )
  if (group !== 'block' && !(group === 'tensor' && grid.kind === 'levels')) return
  if (clip.shrinks.length > 1)
    throw new QuantizeError(
      'bad-option',
      `--clip ${clip.name} chooses the range of a row; with --group ${group} use --clip minmax`,
    )
  if (grid.kind === 'uniform' && !grid.symmetric)
    throw new QuantizeError('bad-option', '--asym: a block has no zero point; use --sym, or --group 128')
}

/** The largest scale of each square of 128 rows of groups: of min-max ranges, the scale of their common range. */
const overBlocks = (scales: Float32Array, out: number, groups: number): Float32Array => {
  const settled = new Float32Array(scales.length)
  for (let top = 0; top < out; top += blockSize)
    for (let group = 0; group < groups; group++) {
      const end = Math.min(out, top + blockSize)
      let largest = 0
      for (let row = top; row < end; row++) largest = Math.max(largest, scales[row * groups + group])
      for (let row = top; row < end; row++) settled[row * groups + group] = largest
    }
  return settled
}

const overAll = (scales: Float32Array): Float32Array =>
  new Float32Array(scales.length).fill(scales.reduce((most, scale) => Math.max(most, scale), 0))

/** Largest stored scale of FP8 E4M3 under a global one. */
const largestE4m3 = 448

type Settled = Pick<CodedLinear, 'scales' | 'globalScale' | 'nested'>

/**
 * @param fitted [out, G] float32 scales of the groups, 0 where all weights are 0 (`zeroScale`)
 * @param reach what the largest magnitude of a group is divided by to give its scale
 * @param shared the largest weight under the global scale, where others stand under it as well
 */
export const settleScales = (
  fitted: Float32Array,
  out: number,
  group: Group,
  storage: Storage,
  reach: number,
  shared?: number,
): Settled => {
  const groups = fitted.length / out
  const scales = group === 'block' ? overBlocks(fitted, out, groups) : group === 'tensor' ? overAll(fitted) : fitted
  if (storage.second === 'global') return underGlobal(scales, reach, shared)
  if (storage.second === 'nested') return nestScales(scales)
  return { scales: scales.map(scale => (scale === 0 ? 1 : roundScale(scale, storage.scaleDtype))) }
}

/** NVFP4: global = 448 · 6 / absmax, stored = E4M3(scale · global), in effect stored / global. */
const underGlobal = (scales: Float32Array, reach: number, shared?: number): Settled => {
  const absmax = shared ?? Math.fround(scales.reduce((most, scale) => Math.max(most, scale), 0) * reach)
  const globalScale = absmax > 0 ? Math.fround((largestE4m3 * reach) / absmax) : 1
  const stored = (scale: number): number => Math.min(largestE4m3, roundScale(Math.fround(scale * globalScale), 'E4M3'))
  return { scales: scales.map(scale => Math.fround(stored(scale) / globalScale)), globalScale }
}
