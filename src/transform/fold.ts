/**
 * Where a change of a tap can be folded back: x W^T = (x / s) (W s)^T, and x / s is what its producer gives when its own outputs are
 * divided by s (methods: SmoothQuant, arXiv 2211.10438; AWQ, arXiv 2306.00978).
 */
import type { Block, Linear, Op, Stage, WeightView } from '../contracts.ts'

export interface Fold {
  /** Channels of the producer: so many factors can be chosen. */
  readonly channels: number
  /** [width of the tap]: the producer's channel behind each channel of the tap. Query heads that share a head of v share its factors. */
  readonly channelOf: Int32Array
  /** Names of tensors whose rows, or values, are divided: the producer's weight, then its bias. */
  readonly divided: readonly string[]
  readonly via: 'norm' | 'linear'
  /** Module name of the producer. */
  readonly producer: string
}

const isWhole = ({ rows, transpose }: WeightView): boolean => rows === undefined && !transpose

const natural = (n: number): Int32Array => Int32Array.from({ length: n }, (_, i) => i)

const readers = (ops: readonly Op[], value: string): readonly Op[] =>
  ops.filter(op => Object.entries(op).some(([key, named]) => key !== 'y' && key !== 'op' && named === value))

const tensorsOf = (weight: WeightView, bias: WeightView | undefined): readonly string[] => [
  weight.tensor,
  ...(bias ? [bias.tensor] : []),
]

/** [tap channels]: the channel of v that attention puts there. */
const headChannels = ({ heads, kvHeads, headDim }: Extract<Op, { op: 'attention' }>): Int32Array =>
  Int32Array.from({ length: heads * headDim }, (_, channel) => {
    const head = Math.floor(channel / headDim)
    return Math.floor(head / (heads / kvHeads)) * headDim + (channel % headDim)
  })

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
    return { channels: width, channelOf: natural(width), divided, via: 'norm', producer: from.name }
  }
  const linear = linearNamed(block, from.name)
  if (from.via === 'none' || !linear) return `what ${from.name} gives does not pass through channel by channel`
  if (!isWhole(linear.weight)) return `${from.name} is a part of ${linear.weight.tensor}`
  if (!isQuantized(linear.name)) return `${from.name} stays unquantized, and would be rounded again`
  const attention = block.ops.find(op => op.op === 'attention' && op.y === tap)
  const channelOf = attention?.op === 'attention' ? headChannels(attention) : natural(width)
  const divided = tensorsOf(linear.weight, linear.bias)
  return { channels: linear.out, channelOf, divided, via: 'linear', producer: linear.name }
}

/** Tensors of a block that any fold may change beside the weights of its linears. */
export const foldedTensors = ({ ops, stages }: Block): readonly string[] => [
  ...ops.flatMap(op => (op.op === 'norm' ? tensorsOf(op.weight, op.bias) : [])),
  ...stages.flatMap(({ linears }) => linears).flatMap(({ bias }) => (bias ? [bias.tensor] : [])),
]
