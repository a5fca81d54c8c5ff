/**
 * How much memory a run takes, from its plan: what is large in it, and what is held at one time. Three ways of running give the same
 * bytes; the first that fits into the budget is taken.
 */
import type { Block, Model } from './contracts.ts'
import { chunkRowsOf, chunkSizes } from './engine/ort/activations.ts'
import { cutAtTaps, linearsOf, widths } from './engine/ort/segments.ts'
import { QuantizeError } from './errors.ts'
import type { PlannedLinear } from './plan/linears.ts'
import type { Plan } from './plan.ts'
import { looksAhead, type Recipe } from './recipe.ts'

/** What a run holds in memory, and what it does without. */
export interface MemoryPlan {
  /** Bytes that may be used. */
  readonly budget: number
  /** Estimate of the process's largest resident set, in bytes, the way it is run. */
  readonly peak: number
  /** Smallest budget with which the run would start. */
  readonly least: number
  /** Activations lie in a temporary file of so many bytes instead of in memory; 0: in memory. */
  readonly spillBytes: number
  /** A block's quantized weights stay in memory until the block is done, instead of being read back. */
  readonly keepDecoded: boolean
}

/** Node, the libraries, and what they keep: measured. With ONNX Runtime, a tokenizer and its text more. */
const baseBytes = { dataFree: 120e6, calibrated: 280e6 }

/** Freed buffers that are not collected yet, pages of the heaps, estimates that are too low: measured peaks lie 0 to 20 % above the sum. */
const slack = 1.2

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)
const most = (values: readonly number[]): number => values.reduce((largest, value) => Math.max(largest, value), 0)

/** Storing and measuring one linear: its codes twice, its words twice, tiles of values. @param valueTiles tiles of 512 rows of float32 that are held */
const storeBytes = ({ scheme: { out, in: inputs }, tensors }: PlannedLinear, valueTiles: number): number =>
  2 * out * inputs + 2 * sum(tensors.map(({ bytes }) => bytes)) + valueTiles * 4 * Math.min(out, 512) * inputs

/** Shared memory of the kernels: chunks of rows, of which one thread more than there are holds one. */
const kernelBytes = ({ scheme: { in: inputs } }: PlannedLinear, threads: number): number =>
  (threads + 1) * (1500 * inputs + 16 * 2 ** 17)

/** Widths of the values that are held at one time at most, by width: buffers are used again only for values of the same width. */
const heldWidths = (block: Block, hidden: number): ReadonlyMap<number, number> => {
  const held = new Map([[block.input, hidden]])
  const largest = new Map<number, number>()
  for (const { outputs, alive } of cutAtTaps(block, hidden)) {
    for (const { name, width } of outputs) held.set(name, width)
    const counts = new Map<number, number>()
    for (const width of held.values()) counts.set(width, (counts.get(width) ?? 0) + 1)
    for (const [width, count] of counts) largest.set(width, Math.max(count, largest.get(width) ?? 0))
    for (const name of [...held.keys()]) if (!alive.has(name)) held.delete(name)
  }
  return largest
}

/** Elements that all values of a token take between two graphs. */
const heldElements = (widths: ReadonlyMap<number, number>): number =>
  sum([...widths].map(([width, count]) => width * count))

interface Tokens {
  readonly total: number
  readonly chunkRows: number
  readonly seqLen: number
}

const tokensOf = (model: Model, { samples, seqLen }: { samples: number; seqLen: number }): Tokens => ({
  total: samples * seqLen,
  chunkRows: most(chunkSizes(samples, seqLen, chunkRowsOf(model))) * seqLen,
  seqLen,
})

/** One graph's run over a chunk: its weights, every value that it makes, the scores of attention; and the Gram matrix that grows beside it, with the drift. */
const forwardBytes = (block: Block, hidden: number, { chunkRows, seqLen }: Tokens, drift: boolean): number => {
  const linears = linearsOf(block)
  const width = widths(block, hidden)
  return most(
    cutAtTaps(block, hidden).map(({ ops, tap }) => {
      let [weights, values, scores] = [0, 0, 0]
      for (const op of ops) {
        const linear = op.op === 'linear' ? linears.get(op.linear)! : undefined
        weights += linear ? linear.out * linear.in : 0
        values += width.get(op.y)!
        if (op.op === 'attention') scores += op.heads * seqLen
      }
      const gram = tap ? (drift ? 2.6 : 1.6) * tap.width ** 2 : 0
      const taps = (drift ? 3 : 1) * (tap?.width ?? 0)
      return 4 * (weights + chunkRows * (values + scores + taps) + gram)
    }),
  )
}

/**
 * Factoring a tap's Gram matrix and rounding a linear of it: the matrix, half of it as a factor, and half again while one becomes the other.
 * Correcting takes four more matrices of the tap's size and the linear's weights twice; refining six, and the weights five times.
 */
const roundingBytes = (linears: readonly PlannedLinear[], { correct, refine }: Recipe, threads: number): number => {
  const matrices = 2 + (correct > 0 ? 4 : 0) + (refine === 'cd' ? 6 : 0)
  const copies = (correct > 0 ? 2 : 0) + (refine === 'cd' ? 5 : 0)
  return most(
    linears.map(linear => {
      const { out, in: inputs } = linear.scheme
      const held = 4 * (matrices * inputs ** 2 + copies * out * inputs)
      return held + storeBytes(linear, 5) + kernelBytes(linear, threads)
    }),
  )
}

/**
 * Of a run that waits until it has seen all taps of a block, or scales them: all Gram matrices of the block, one of them twice or as it is
 * read; and to search scales or cuts, a stage's weights four times and six stacks of 1024 rows of its width (quantize/nearest-errors.ts).
 */
const blockBytes = ({ stages }: Block, { transform, clip, rounding, stats }: Recipe): number => {
  const waits = transform !== 'none' || stats !== null || rounding === 'nearest'
  const grams = stages.map(({ width }) => width ** 2)
  const searches = stages.map(
    ({ linears, width }) => 4 * sum(linears.map(({ out, in: inputs }) => out * inputs)) + 6 * 1024 * width,
  )
  return 4 * ((waits ? sum(grams) + most(grams) : 0) + (transform !== 'none' || clip === 'awq' ? most(searches) : 0))
}

/** Weights [out, in] of a block as float32. */
const decodedBytes = ({ stages }: Block): number =>
  4 * sum(stages.flatMap(stage => stage.linears).map(({ out, in: inputs }) => out * inputs))

/** Rows of the embedding table that the tokens name. */
const embeddingBytes = ({ vocabulary, hidden }: Model, { total }: Tokens): number =>
  4 * hidden * Math.min(vocabulary, total)

/**
 * @param budget bytes
 * @param threads of the kernels
 */
export const planMemory = ({ model, linears, recipe }: Plan, budget: number, threads: number): MemoryPlan => {
  const { calibration, stats } = recipe
  if (!calibration && stats === null) {
    const peak = Math.ceil(
      // while one linear is stored, the codes of the next are chosen
      slack *
        (baseBytes.dataFree +
          most(linears.map(linear => storeBytes(linear, 0) + 2 * kernelBytes(linear, threads))) +
          most(linears.map(({ scheme }) => scheme.out * scheme.in))),
    )
    return { budget, peak, least: peak, spillBytes: 0, keepDecoded: false }
  }
  const { blocks, hidden } = model!
  const block = most(blocks.map(block => blockBytes(block, recipe)))
  const rounding = roundingBytes(linears, recipe, threads)
  if (!calibration) {
    const peak = Math.ceil(slack * (baseBytes.calibrated + rounding + block))
    return { budget, peak, least: peak, spillBytes: 0, keepDecoded: false }
  }
  const tokens = tokensOf(model!, calibration)
  const elements = most(blocks.map(block => heldElements(heldWidths(block, hidden))))
  const forward = most(blocks.map(block => forwardBytes(block, hidden, tokens, recipe.correct > 0)))
  const work = Math.max(forward, rounding, embeddingBytes(model!, tokens)) + block
  const decoded = most(blocks.map(decodedBytes))
  const peakOf = (held: number): number => Math.ceil(slack * (baseBytes.calibrated + work + held))
  const passes = 1 + (recipe.correct > 0 ? 1 : 0) + (looksAhead(recipe) ? 1 : 0)
  const inMemory = passes * 4 * elements * tokens.total
  const inFile = passes * 4 * elements * tokens.chunkRows
  const least = peakOf(inFile)
  const ways = [
    { peak: peakOf(inMemory + decoded), spillBytes: 0, keepDecoded: true },
    { peak: peakOf(inMemory), spillBytes: 0, keepDecoded: false },
    { peak: least, spillBytes: inMemory, keepDecoded: false },
  ]
  return { budget, least: Math.min(least, peakOf(inMemory)), ...(ways.find(({ peak }) => peak <= budget) ?? ways[2]) }
}

/** A size as people read it. */
export const gigabytes = (bytes: number): string => `${(bytes / 1e9).toPrecision(3)} GB`

/** @throws QuantizeError exhausted when the budget is too small for any way of running */
export const checkMemory = ({ budget, least }: MemoryPlan): void => {
  if (least > budget)
    throw new QuantizeError(
      'exhausted',
      `the run takes about ${gigabytes(least)} of memory, and ${gigabytes(budget)} may be used; a larger --max-memory, fewer --threads or a shorter --seq-len helps`,
    )
}
