import type { ActOrder, Group } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'

/** Rows and columns of a block. */
export const blockSize = 128

/** Which columns share a scale. */
export interface Granularity {
  /** Groups along `in`. */
  readonly groups: number
  /** Columns of a group; of the last block there may be fewer. */
  readonly size: number
  /** All rows share one scale as well. */
  readonly joint: boolean
}

/** Divisors of n, ascending. */
export const divisorsOf = (n: number): number[] => {
  const small: number[] = []
  for (let d = 1; d * d <= n; d++) if (n % d === 0) small.push(d)
  const large = small.map(d => n / d).reverse()
  return [...new Set([...small, ...large])]
}

/** The divisors of `inputs` nearest to `size` (by ratio), ascending; not 1, if there are others. */
export const divisorsNear = (size: number, inputs: number, count = 4): number[] => {
  const ratio = (d: number): number => (d > size ? d / size : size / d)
  const divisors = divisorsOf(inputs)
  const useful = divisors.filter(d => d > 1)
  const nearest = (useful.length > 0 ? useful : divisors).sort((a, b) => ratio(a) - ratio(b)).slice(0, count)
  return nearest.sort((a, b) => a - b)
}

/** @returns why groups of `size` do not fit, with what would; undefined when they do */
export const groupRefusal = (size: number, inputs: number): string | undefined =>
  Number.isInteger(size) && size > 0 && inputs % size === 0
    ? undefined
    : `group ${size} does not divide ${inputs} inputs; use ${divisorsNear(size > 0 ? size : 1, inputs).join(', ')}, channel, or --group-fallback`

/**
 * The one shape rule.
 * @throws QuantizeError unsupported when the group's size does not divide `inputs`, naming the nearest sizes that do
 */
export const granularity = (group: Group, inputs: number): Granularity => {
  if (group === 'block') return { groups: Math.ceil(inputs / blockSize), size: blockSize, joint: false }
  if (typeof group !== 'number') return { groups: 1, size: inputs, joint: group === 'tensor' }
  const refusal = groupRefusal(group, inputs)
  if (refusal) throw new QuantizeError('unsupported', refusal)
  return { groups: inputs / group, size: group, joint: false }
}

/**
 * [in]: the group of each column. Groups are runs of the natural order, but under `g_idx` of the sweep's order.
 * @param order [in]: the column at each position of the sweep
 */
export const columnGroups = ({ size }: Granularity, actOrder: ActOrder, order: Int32Array): Int32Array => {
  const groupOf = new Int32Array(order.length)
  for (const [position, column] of order.entries())
    groupOf[column] = Math.floor((actOrder === 'g_idx' ? position : column) / size)
  return groupOf
}

/** Whether groups are fitted from the compensated weights when the sweep enters them, rather than all before it. */
export const fitsInSweep = (group: Group, actOrder: ActOrder): boolean =>
  typeof group === 'number' && actOrder !== 'static'

export const naturalOrder = (inputs: number): Int32Array => Int32Array.from({ length: inputs }, (_, column) => column)
