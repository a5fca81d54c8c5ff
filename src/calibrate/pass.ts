import type { Block, Model, Stage, Statistics } from '../contracts.ts'
import { chunkRowsOf, embed, type ReadWeight } from '../engine/ort/activations.ts'
import { createBlockPass, type LinearWeight } from '../engine/ort/forward.ts'
import { createGram } from '../engine/ort/gram.ts'
import type { Engine } from '../engine/ort/session.ts'
import type { Spill } from '../engine/ort/spill.ts'
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
  { zeroNonFinite = false, spill, onChunk }: PassOptions,
): Promise<void> => {
  const activations = embed(model, read, windows, chunkRowsOf(model), spill)
  for (const block of model.blocks) {
    const replaced = new Map<string, () => Float32Array>()
    const weight: LinearWeight = linear => replaced.get(linear.name)?.() ?? read(linear.weight)
    const pass = createBlockPass(engine, block, activations, read)
    for (const stage of block.stages) {
      const known = visitor.known(stage)
      const gram = known ? undefined : createGram(engine, stage.width)
      let [zeroed, tokens] = [0, 0]
      await pass.advance(weight, {
        async onTap({ transposed, rows }) {
          if (!gram) return
          if (zeroNonFinite) zeroed += zeroIn(transposed)
          await gram.add(transposed, rows)
          if (gram.notFinite() >= 0)
            throw notFinite(stage, transposed, rows, tokens, activations.seqLen, gram.notFinite())
          tokens += rows
        },
        onChunk: (done, of) => onChunk(block, stage, done, of),
      })
      const weights = known ?? (await visitor.visit({ block, stage, statistics: gram!.finish(), zeroed }))
      for (const [name, values] of weights) replaced.set(name, values)
    }
    if (block !== model.blocks.at(-1))
      await pass.advance(weight, { onChunk: (done, of) => onChunk(block, undefined, done, of) })
  }
}
