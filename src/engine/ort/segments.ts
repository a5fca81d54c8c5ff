/**
 * Cutting a block's op list at its taps. Segment i computes tap i from the values that are alive after segment i − 1; the last
 * one computes the block's output. A linear runs only after the segment that gave its tap, so that it can be quantized first.
 */
import type { Linear, Op, Value } from '../../contracts.ts'

/** How a value of `width` features lies in memory: rows [T, width] or columns [width, T]. */
export type Layout = 'rows' | 'columns'

export interface HeldValue {
  readonly name: Value
  readonly width: number
  readonly layout: Layout
}

/** The ops of one graph, and the values that pass its edges. */
export interface Segment {
  readonly ops: readonly Op[]
  /** Values of earlier segments that its ops read, or of which it emits the transpose. */
  readonly inputs: readonly HeldValue[]
  /** Values that it makes and that are read later. */
  readonly outputs: readonly HeldValue[]
  /** The value whose columns [width, T] are asked for. */
  readonly tap?: HeldValue
  /** Values made inside that lie in columns (outputs among them). */
  readonly columns: ReadonlySet<Value>
  /** Names of values that later segments still read. */
  readonly alive: ReadonlySet<Value>
}

/** What is cut: a block, or the ops after the last one. */
export interface Cuttable {
  readonly ops: readonly Op[]
  readonly input: Value
  readonly output: Value
  readonly stages?: readonly { readonly tap: Value; readonly linears: readonly Linear[] }[]
}

export const opInputs = (op: Op): readonly Value[] => {
  if (op.op === 'attention') return [op.q, op.k, op.v]
  return 'a' in op ? [op.a, op.b] : [op.x]
}

const isElementwise = (op: Op): boolean => op.op === 'activation' || op.op === 'add' || op.op === 'multiply'

/** The linears of a block by name. */
export const linearsOf = ({ stages = [] }: Cuttable): ReadonlyMap<string, Linear> =>
  new Map(stages.flatMap(stage => stage.linears).map(linear => [linear.name, linear]))

/** Features of every value of a block; `hidden` of its input. */
export const widths = (block: Cuttable, hidden: number): ReadonlyMap<Value, number> => {
  const linears = linearsOf(block)
  const known = new Map([[block.input, hidden]])
  for (const op of block.ops) {
    if (op.op === 'linear') known.set(op.y, linears.get(op.linear)!.out)
    else if (op.op === 'attention') known.set(op.y, op.heads * op.headDim)
    else known.set(op.y, known.get(opInputs(op)[0])!)
  }
  return known
}

/** The segment of each op: the first in which its inputs exist and, for a linear of stage i, at least i + 1. */
const placeOps = (block: Cuttable): readonly number[] => {
  const stageOf = new Map(block.stages?.flatMap(({ linears }, i) => linears.map(({ name }) => [name, i] as const)))
  const madeIn = new Map([[block.input, 0]])
  return block.ops.map(op => {
    const inputs = opInputs(op).map(value => madeIn.get(value)!)
    const afterStage = op.op === 'linear' ? (stageOf.get(op.linear) ?? -1) + 1 : 0
    const segment = Math.max(afterStage, ...inputs)
    madeIn.set(op.y, segment)
    return segment
  })
}

/**
 * Values of a segment to be computed as columns: those between the segment's linears and a tap that is made of them element by
 * element. W·xᵀ costs as much as x·Wᵀ, and the transpose that the Gram matrix wants is then free. Empty where it does not apply.
 */
const columnValues = (tap: Value | undefined, here: readonly Op[], later: readonly Op[]): ReadonlySet<Value> => {
  const columns = new Set<Value>()
  const producer = new Map(here.map(op => [op.y, op]))
  const reach = (value: Value): boolean => {
    const op = producer.get(value)
    if (!op || (op.op !== 'linear' && !isElementwise(op))) return false
    columns.add(value)
    return op.op === 'linear' || opInputs(op).every(reach)
  }
  if (tap === undefined || !reach(tap)) return new Set()
  const readsOthers = (op: Op): boolean => opInputs(op).some(value => columns.has(value) && value !== tap)
  const outside = here.filter(op => !columns.has(op.y))
  const tapReaders = [...outside, ...later].filter(op => opInputs(op).includes(tap))
  const closed = !outside.some(readsOthers) && !later.some(readsOthers) && tapReaders.every(op => op.op === 'linear')
  return closed ? columns : new Set()
}

/**
 * @param hidden features of the block's input
 * @returns stages.length + 1 segments, in order
 */
export const cutAtTaps = (block: Cuttable, hidden: number): readonly Segment[] => {
  const taps = block.stages?.map(({ tap }) => tap) ?? []
  const placed = placeOps(block)
  const width = widths(block, hidden)
  const layouts = new Map<Value, Layout>()
  const held = (name: Value): HeldValue => ({ name, width: width.get(name)!, layout: layouts.get(name) ?? 'rows' })
  return Array.from({ length: taps.length + 1 }, (_, index) => {
    const ops = block.ops.filter((_, i) => placed[i] === index)
    const later = block.ops.filter((_, i) => placed[i] > index)
    const columns = columnValues(taps[index], ops, later)
    for (const value of columns) layouts.set(value, 'columns')
    const made = new Set(ops.map(op => op.y))
    const alive = new Set([block.output, ...later.flatMap(opInputs), ...taps.slice(index + 1)])
    const read = new Set([...ops.flatMap(opInputs), ...taps.slice(index, index + 1)])
    return {
      ops,
      inputs: [...read].filter(value => !made.has(value)).map(held),
      outputs: [...made].filter(value => alive.has(value)).map(held),
      tap: index < taps.length ? held(taps[index]) : undefined,
      columns,
      alive,
    }
  })
}

/** The whole op list as one segment, without taps. */
export const uncut = (block: Cuttable, hidden: number): Segment => ({
  ops: block.ops,
  inputs: [{ name: block.input, width: hidden, layout: 'rows' }],
  outputs: [{ name: block.output, width: widths(block, hidden).get(block.output)!, layout: 'rows' }],
  columns: new Set(),
  alive: new Set([block.output]),
})
