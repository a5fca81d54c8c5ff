/**
 * Where a change of a tap can be folded back: x W^T = (x / s) (W s)^T, and x / s is what its producer gives when its own outputs are
 * divided by s (methods: SmoothQuant, arXiv 2211.10438; AWQ, arXiv 2306.00978).
 */
import type { Block, Linear, Op, Stage, WeightView } from '../contracts.ts'

export interface Fold {
  /** Channels of the producer: so many factors can be chosen. */
  readonly channels: number
  /** Of an input that attention makes from v: heads of queries, and of v. Query heads that share a head of v share its factors. */
  readonly heads?: readonly [number, number]
  /** [width of the tap]: the producer's channel behind each channel of the tap. */
  readonly channelOf: Int32Array
  /** Names of tensors whose rows, or values, are divided: the producer's weight, then its bias. */
  readonly divided: readonly string[]
  readonly via: 'norm' | 'linear'
  /** Module name of the producer. */
  readonly producer: string
}

const isWhole = ({ rows, transpose }: WeightView): boolean => rows === undefined && !transpose

const readers = (ops: readonly Op[], value: string): readonly Op[] =>
  ops.filter(op => Object.entries(op).some(([key, named]) => key !== 'y' && key !== 'op' && named === value))

const tensorsOf = (weight: WeightView, bias: WeightView | undefined): readonly string[] => [
  weight.tensor,
  ...(bias ? [bias.tensor] : []),
]

/** [width]: the producer's channel behind each channel of a tap; of attention's result, the channel of v. */
export const channelsBehind = (width: number, heads?: readonly [number, number]): Int32Array => {
  if (!heads) return Int32Array.from({ length: width }, (_, i) => i)
  const [queries, values] = heads
  const size = width / queries
  return Int32Array.from({ length: width }, (_, channel) => {
    const head = Math.floor(channel / size)
    return Math.floor(head / (queries / values)) * size + (channel % size)
  })
}

const linearNamed = ({ stages }: Block, name: string): Linear | undefined =>
  stages.flatMap(({ linears }) => linears).find(linear => linear.name === name)

/**
 * @param isQuantized whether a linear of this name is quantized: a producer that stays dense would be rounded again
 * @returns why there is none, in words, where a change cannot be folded
 */
export const foldOf = (block: Block, stage: Stage, isQuantized: (name: string) => boolean): Fold | string => {
  const { tap, width, from } = stage
  if (readers(block.ops, tap).some(op => op.op !== 'linear')) return `not only linears read ${tap}`
  if (from.via === 'norm') {
    const norm = block.ops.find(op => op.op === 'norm' && op.y === tap)
    if (norm?.op !== 'norm') return `${from.name} is no norm of the block`
    const divided = tensorsOf(norm.weight, norm.bias)
    return { channels: width, channelOf: channelsBehind(width), divided, via: 'norm', producer: from.name }
  }
  const linear = linearNamed(block, from.name)
  if (from.via === 'none' || !linear) return `what ${from.name} gives does not pass through channel by channel`
  if (!isWhole(linear.weight)) return `${from.name} is a part of ${linear.weight.tensor}`
  if (!isQuantized(linear.name)) return `${from.name} stays unquantized, and would be rounded again`
  const attention = block.ops.find(op => op.op === 'attention' && op.y === tap)
  const heads = attention?.op === 'attention' ? ([attention.heads, attention.kvHeads] as const) : undefined
  const divided = tensorsOf(linear.weight, linear.bias)
  const channelOf = channelsBehind(width, heads)
  return { channels: linear.out, heads, channelOf, divided, via: 'linear', producer: linear.name }
}

/** Tensors of a block that any fold may change beside the weights of its linears. */
export const foldedTensors = ({ ops, stages }: Block): readonly string[] => [
  ...ops.flatMap(op => (op.op === 'norm' ? tensorsOf(op.weight, op.bias) : [])),
  ...stages.flatMap(({ linears }) => linears).flatMap(({ bias }) => (bias ? [bias.tensor] : [])),
]
