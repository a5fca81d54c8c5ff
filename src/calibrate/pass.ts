import type { Block, Model, Stage, Statistics } from '../contracts.ts'
import { chunkRowsOf, embed, type ReadWeight } from '../engine/ort/activations.ts'
import { createDrift } from '../engine/ort/drift.ts'
import { createBlockPass, type LinearWeight } from '../engine/ort/forward.ts'
import { createGram } from '../engine/ort/gram.ts'
import type { Engine } from '../engine/ort/session.ts'
import { type Spill, spillBeside } from '../engine/ort/spill.ts'
import { QuantizeError } from '../errors.ts'

/** A stage whose tap has seen all samples, through everything before it as it will be stored. */
export interface Visit {
  readonly block: Block
  readonly stage: Stage
  readonly statistics: Statistics
  /** Values of the tap that were not finite and counted as 0. */
  readonly zeroed: number
}

/** Weights [out, in] by linear name; asked for whenever a stage runs, so that they need not be kept. */
export type Weights = ReadonlyMap<string, () => Float32Array>

/** Both give the weights that replace those of the stage's linears from here on; others stay as they are. */
export interface Visitor {
  /** For a stage whose replacements are known already: its statistics are not collected then. */
  known(stage: Stage): Weights | undefined
  visit(visit: Visit): Promise<Weights>
}

export interface PassOptions {
  /** A value of a tap that is not finite counts as 0 in its statistics, instead of ending the pass. */
  readonly zeroNonFinite?: boolean
  /** Takes the activations instead of memory. */
  readonly spill?: Spill
  /** Also computes the unquantized model, beside what becomes of it, and gives Statistics.drift. */
  readonly drift?: boolean
  /** After each chunk of tokens through the part of a block that computes one tap. */
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
  { zeroNonFinite = false, spill, drift = false, onChunk }: PassOptions,
): Promise<void> => {
  const activations = embed(model, read, windows, chunkRowsOf(model), spill)
  const unquantized = drift
    ? embed(model, read, windows, chunkRowsOf(model), spill && spillBeside(spill, windows.length))
    : undefined
  const original: LinearWeight = linear => read(linear.weight)
  for (const block of model.blocks) {
    const replaced = new Map<string, () => Float32Array>()
    const weight: LinearWeight = linear => replaced.get(linear.name)?.() ?? original(linear)
    const pass = createBlockPass(engine, block, activations, read)
    const originalPass = unquantized && createBlockPass(engine, block, unquantized, read)
    for (const stage of block.stages) {
      const known = visitor.known(stage)
      const gram = known ? undefined : createGram(engine, stage.width)
      const drifted = gram && drift ? createDrift(engine, stage.width) : undefined
      const originals = originalPass?.advance(original)
      let [zeroed, tokens, done] = [0, 0, 0]
      for await (const tap of pass.advance(weight)) {
        const { transposed, rows } = tap!
        const there = (await originals?.next())?.value
        if (gram) {
          if (zeroNonFinite) zeroed += zeroIn(transposed)
          await gram.add(transposed, rows)
          if (gram.notFinite() >= 0)
            throw notFinite(stage, transposed, rows, tokens, activations.seqLen, gram.notFinite())
        }
        if (there && drifted) {
          if (zeroNonFinite) zeroIn(there.transposed)
          await drifted.add(there.transposed, transposed, rows)
        }
        tokens += rows
        onChunk(block, stage, ++done, pass.chunks)
      }
      await originals?.next() // ends it
      const statistics = gram && { ...gram.finish(), drift: drifted?.finish() }
      const weights = known ?? (await visitor.visit({ block, stage, statistics: statistics!, zeroed }))
      for (const [name, values] of weights) replaced.set(name, values)
    }
    if (block === model.blocks.at(-1)) continue
    let done = 0
    for await (const _ of pass.advance(weight)) onChunk(block, undefined, ++done, pass.chunks)
    if (originalPass) for await (const _ of originalPass.advance(original));
  }
}
