import type { Block, Model, Stage, StatisticName, Statistics } from '../contracts.ts'
import { type Activations, chunkRowsOf, copyActivations, embed, type ReadWeight } from '../engine/ort/activations.ts'
import { createDrift } from '../engine/ort/drift.ts'
import { createBlockPass, type LinearWeight } from '../engine/ort/forward.ts'
import { createGram } from '../engine/ort/gram.ts'
import type { Engine } from '../engine/ort/session.ts'
import { type Spill, spillBeside } from '../engine/ort/spill.ts'
import { QuantizeError } from '../errors.ts'
import { createChannels } from './channels.ts'

/** A stage whose tap has seen all samples, through everything before it as it will be stored. */
export interface Visit {
  readonly block: Block
  readonly stage: Stage
  readonly statistics: Statistics
  /** Values of the tap that were not finite and counted as 0. */
  readonly zeroed: number
}

/** Weights [out, in] by linear name, and biases [out] by tensor name; asked for whenever a stage runs, so that they need not be kept. */
export type Weights = ReadonlyMap<string, () => Float32Array>

/** Both give what replaces the weights and biases of the stage's linears from here on; others stay as they are. */
export interface Visitor {
  /** Before anything of a block is visited: what its taps see with its weights as they are, behind the blocks that were replaced. A second pass over the block. */
  ahead?(block: Block, statistics: ReadonlyMap<Stage, Statistics>): Promise<void>
  /** For a stage whose replacements are known already: its statistics are not collected then. */
  known(stage: Stage): Weights | undefined
  visit(visit: Visit): Promise<Weights>
}

export interface PassOptions {
  /** A value of a tap that is not finite counts as 0 in its statistics, instead of ending the pass. */
  readonly zeroNonFinite?: boolean
  /** Collected at each tap beside its Gram matrix. */
  readonly collect?: ReadonlySet<StatisticName>
  /** Takes the activations instead of memory. */
  readonly spill?: Spill
  /** Also computes the unquantized model, beside what becomes of it, and gives Statistics.drift. */
  readonly drift?: boolean
  /** After each chunk of tokens through the part of a block that computes one tap, in a second pass over it as well. */
  readonly onChunk: (block: Block, stage: Stage | undefined, done: number, of: number) => void
}

/** Takes 0 for what is not finite; returns how many values that were. */
const zeroIn = (values: Float32Array): number => {
  let zeroed = 0
  for (let i = 0; i < values.length; i++)
    if (!Number.isFinite(values[i])) {
      values[i] = 0
      zeroed++
    }
  return zeroed
}

/**
 * Names the first value of a chunk that is not finite.
 * @param transposed the tap [width, rows]
 * @param before tokens of earlier chunks
 * @param channel whose sum of squares is not finite
 */
const notFinite = (
  { linears }: Stage,
  transposed: Float32Array,
  rows: number,
  before: number,
  seqLen: number,
  channel: number,
): QuantizeError => {
  const at = transposed.findIndex(value => !Number.isFinite(value))
  const token = before + (at % rows)
  const where =
    at < 0
      ? `the squares of channel ${channel} of its input overflow`
      : `channel ${Math.floor(at / rows)} of its input is ${Number.isNaN(transposed[at]) ? 'NaN' : 'infinite'} at token ${token % seqLen} of sample ${Math.floor(token / seqLen)}`
  return new QuantizeError(
    'bad-input',
    `${linears[0].name}: ${where}; the source's weights overflow on the calibration text (--nonfinite zero takes 0 instead)`,
    { lasting: true },
  )
}

interface TapAccumulator {
  /** @throws QuantizeError bad-input for a value that is not finite */
  add(transposed: Float32Array, rows: number): Promise<void>
  finish(): { readonly statistics: Statistics; readonly zeroed: number }
}

const accumulatorOf = (
  engine: Engine,
  stage: Stage,
  seqLen: number,
  { zeroNonFinite = false, collect = new Set() }: PassOptions,
): TapAccumulator => {
  const gram = createGram(engine, stage.width)
  const channels = collect.size > 0 ? createChannels(stage.width, collect) : undefined
  let [zeroed, tokens] = [0, 0]
  return {
    async add(transposed, rows) {
      if (zeroNonFinite) zeroed += zeroIn(transposed)
      await gram.add(transposed, rows)
      if (gram.notFinite() >= 0) throw notFinite(stage, transposed, rows, tokens, seqLen, gram.notFinite())
      channels?.add(transposed, rows)
      tokens += rows
    },
    finish: () => ({ statistics: { ...gram.finish(), ...channels?.finish() }, zeroed }),
  }
}

/** The statistics of all taps of a block with its weights as they are; the activations stay as they were. */
const lookAhead = async (
  engine: Engine,
  block: Block,
  activations: Activations,
  read: ReadWeight,
  options: PassOptions,
): Promise<ReadonlyMap<Stage, Statistics>> => {
  const { spill, chunks } = activations
  const sequences = chunks.reduce((sum, chunk) => sum + chunk.sequences, 0)
  const copy = copyActivations(activations, spill && spillBeside(spill, 2 * sequences)) // the unquantized model's lie between
  const pass = createBlockPass(engine, block, copy, read)
  const found = new Map<Stage, Statistics>()
  for (const stage of block.stages) {
    const accumulator = accumulatorOf(engine, stage, activations.seqLen, options)
    let done = 0
    for await (const tap of pass.advance(linear => read(linear.weight))) {
      await accumulator.add(tap!.transposed, tap!.rows)
      options.onChunk(block, stage, ++done, pass.chunks)
    }
    found.set(stage, accumulator.finish().statistics)
  }
  pass.abandon()
  return found
}

/**
 * One pass over the model, quantizing as it goes ('true sequential', arXiv 2210.17323 and its README): stage by stage, the tap's Gram
 * matrix is taken, the visitor replaces the stage's linears, and what follows is computed with the replaced ones. Activations of one
 * value at a time are held; after the last stage of the last block nothing more is computed.
 */
export const calibratedPass = async (
  engine: Engine,
  model: Model,
  windows: readonly Int32Array[],
  read: ReadWeight,
  visitor: Visitor,
  options: PassOptions,
): Promise<void> => {
  const { zeroNonFinite = false, spill, drift = false, onChunk } = options
  const activations = embed(model, read, windows, chunkRowsOf(model), spill)
  const unquantized = drift
    ? embed(model, read, windows, chunkRowsOf(model), spill && spillBeside(spill, windows.length))
    : undefined
  const original: LinearWeight = linear => read(linear.weight)
  for (const block of model.blocks) {
    if (visitor.ahead) await visitor.ahead(block, await lookAhead(engine, block, activations, read, options))
    const replaced = new Map<string, () => Float32Array>()
    const weight: LinearWeight = linear => replaced.get(linear.name)?.() ?? original(linear)
    const pass = createBlockPass(engine, block, activations, view => replaced.get(view.tensor)?.() ?? read(view))
    const originalPass = unquantized && createBlockPass(engine, block, unquantized, read)
    for (const stage of block.stages) {
      const known = visitor.known(stage)
      const seen = known ? undefined : accumulatorOf(engine, stage, activations.seqLen, options)
      const drifted = seen && drift ? createDrift(engine, stage.width) : undefined
      const originals = originalPass?.advance(original)
      let done = 0
      for await (const tap of pass.advance(weight)) {
        const { transposed, rows } = tap!
        const there = (await originals?.next())?.value
        await seen?.add(transposed, rows)
        if (there && drifted) {
          if (zeroNonFinite) zeroIn(there.transposed)
          await drifted.add(there.transposed, transposed, rows)
        }
        onChunk(block, stage, ++done, pass.chunks)
      }
      await originals?.next() // ends it
      const found = seen?.finish()
      const weights =
        known ??
        (await visitor.visit({
          block,
          stage,
          statistics: { ...found!.statistics, drift: drifted?.finish() },
          zeroed: found!.zeroed,
        }))
      for (const [name, values] of weights) replaced.set(name, values)
    }
    if (block === model.blocks.at(-1)) continue
    let done = 0
    for await (const _ of pass.advance(weight)) onChunk(block, undefined, ++done, pass.chunks)
    if (originalPass) for await (const _ of originalPass.advance(original));
  }
}
