/**
 * The streaming forward pass. All samples go through one graph before the next graph begins; between two graphs only the values
 * that are still read are held, and each chunk's new values take the place of its old ones.
 */
import type { Block, Linear, Model } from '../../contracts.ts'
import type { Activations, Chunk, ReadWeight } from './activations.ts'
import { attentionFeeds, lengthsFeed } from './attention.ts'
import { type Held, heldInFile, heldInMemory } from './held.ts'
import { type Lowered, lower } from './lower.ts'
import { type Cuttable, cutAtTaps, type HeldValue, linearsOf, type Segment, uncut } from './segments.ts'
import type { Engine, Feeds, Tensor } from './session.ts'

/** A linear's weight [out, in] as float32, row-major, in ordinary memory: as stored, or as quantized so far. */
export type LinearWeight = (linear: Linear) => Float32Array

/** What a tap saw in one chunk. Valid until the next one is asked for: the memory is written again. */
export interface TapChunk {
  /** The tap in columns [width, rows]: one row a feature. */
  readonly transposed: Float32Array
  readonly rows: number
}

/** After each chunk: chunks done, of how many. */
export type OnChunk = (done: number, of: number) => void

/** Runs one segment over chunks. */
interface SegmentRun {
  /** Weights, norms, tables: the same for every chunk. */
  readonly feeds: Feeds
  readonly segment: Segment
  readonly lowered: Lowered
}

const prepareRun = (
  engine: Engine,
  block: Cuttable,
  segment: Segment,
  seqLen: number,
  weight: LinearWeight,
  read: ReadWeight,
): SegmentRun => {
  const lowered = lower(segment, linearsOf(block), seqLen)
  const { linears, parameters, attention } = lowered
  const vector = (data: Float32Array, columns: boolean): Tensor =>
    engine.tensor(data, columns ? [data.length, 1] : [data.length])
  const feeds = {
    ...Object.fromEntries(
      linears.map(({ input, linear }) => [input, engine.tensor(weight(linear), [linear.out, linear.in])]),
    ),
    ...Object.fromEntries(parameters.map(({ input, view, columns }) => [input, vector(read(view), columns)])),
    ...(attention ? attentionFeeds(engine, attention, seqLen) : {}),
  }
  return { feeds, segment, lowered }
}

/**
 * Runs a segment on one chunk: its outputs join `held`.
 * @param transposed takes the tap in columns, where the graph transposes it
 */
const runChunk = async (
  engine: Engine,
  { feeds, segment, lowered }: SegmentRun,
  chunk: Chunk,
  held: Held,
  { pool, seqLen }: Activations,
  transposed?: Float32Array,
): Promise<void> => {
  const { inputs, outputs, tap } = segment
  const tensorOf = ({ width, layout }: HeldValue, data: Float32Array): Tensor =>
    engine.tensor(data, layout === 'rows' ? [chunk.rows, width] : [width, chunk.rows])
  const into: Record<string, Tensor> = {}
  for (const value of outputs) {
    const buffer = pool.take(chunk.rows * value.width)
    held.set(value, buffer)
    into[value.name] = tensorOf(value, buffer)
  }
  if (transposed) into[lowered.transposed!] = engine.tensor(transposed, [tap!.width, chunk.rows])
  const values = Object.fromEntries(inputs.map(value => [value.name, tensorOf(value, held.get(value))]))
  const lengths = lowered.attention ? lengthsFeed(engine, chunk.sequences, seqLen) : {}
  const session = await engine.graph(lowered.key, lowered.build, lowered.threadLimit(chunk.rows))
  await session.run({ ...feeds, ...values, ...lengths }, into)
}

/** One block, segment by segment. */
export interface BlockPass {
  readonly chunks: number
  /**
   * Runs the next segment, chunk by chunk, as it is asked for. The first gives the tap of stage 0 and reads no linear; segment i gives
   * the tap of stage i and reads, through `weight`, linears of stages before i; the last ends the block, gives no tap, and the
   * activations hold its output. Take all chunks before the next call.
   */
  advance(weight: LinearWeight): AsyncGenerator<TapChunk | undefined, void, undefined>
  /** Ends a pass before the block's end: what it holds is let go. */
  abandon(): void
}

/**
 * A pass over one block in which every tap can be seen, and every linear be replaced, before anything behind it is computed.
 * @param read norms and biases; linears come through `advance`
 */
export const createBlockPass = (
  engine: Engine,
  block: Block,
  activations: Activations,
  read: ReadWeight,
): BlockPass => {
  const { chunks, pool, seqLen, width, spill } = activations
  const segments = cutAtTaps(block, width)
  const held = chunks.map((chunk, i) =>
    spill ? heldInFile(spill, i, chunk.rows, block.input, pool) : heldInMemory(chunk, block.input, pool),
  )
  let next = 0
  return {
    chunks: chunks.length,
    async *advance(weight) {
      const index = next++
      if (index >= segments.length) throw new Error(`${block.name}: the pass over the block is over`)
      const run = prepareRun(engine, block, segments[index], seqLen, weight, read)
      const { tap, alive } = run.segment
      // one buffer for all chunks stays in the cache
      const scratch = run.lowered.transposed === undefined ? undefined : pool.take(chunks[0].rows * tap!.width)
      for (const [i, chunk] of chunks.entries()) {
        const transposed = scratch?.subarray(0, chunk.rows * tap!.width)
        await runChunk(engine, run, chunk, held[i], activations, transposed)
        yield tap && { transposed: transposed ?? held[i].get(tap), rows: chunk.rows }
        held[i].settle(name => alive.has(name))
        if (!tap) held[i].finish(block.output)
      }
      if (scratch) pool.give(scratch)
    },
    abandon() {
      for (const one of held) one.settle(() => false)
      next = segments.length
    },
  }
}

/** A block, or the model's final ops, in one graph: the activations hold its output afterwards. */
const runUncut = async (
  engine: Engine,
  block: Cuttable,
  activations: Activations,
  weight: LinearWeight,
  read: ReadWeight,
  onChunk?: OnChunk,
): Promise<void> => {
  const { chunks, pool, seqLen, width } = activations
  const run = prepareRun(engine, block, uncut(block, width), seqLen, weight, read)
  for (const [i, chunk] of chunks.entries()) {
    const held = heldInMemory(chunk, block.input, pool)
    await runChunk(engine, run, chunk, held, activations)
    held.settle(name => run.segment.alive.has(name))
    held.finish(block.output)
    onChunk?.(i + 1, chunks.length)
  }
}

/** All samples through one block, without taps. */
export const runBlock = (
  engine: Engine,
  block: Block,
  activations: Activations,
  weight: LinearWeight,
  read: ReadWeight,
  onChunk?: OnChunk,
): Promise<void> => runUncut(engine, block, activations, weight, read, onChunk)

/** All samples through the ops after the last block: the activations are then what the head reads. */
export const runFinal = (engine: Engine, model: Model, activations: Activations, read: ReadWeight): Promise<void> => {
  const noLinears: LinearWeight = ({ name }) => {
    throw new Error(`${name}: the final ops hold no linear`)
  }
  return runUncut(engine, model.final, activations, noLinears, read)
}
