import type { Block, Model, Stage, Statistics } from '../contracts.ts'
import { embed, type ReadWeight } from '../engine/ort/activations.ts'
import { createBlockPass, type LinearWeight } from '../engine/ort/forward.ts'
import { createGram } from '../engine/ort/gram.ts'
import type { Engine } from '../engine/ort/session.ts'

/** A stage whose tap has seen all samples, through everything before it as it will be stored. */
export interface Visit {
  readonly block: Block
  readonly stage: Stage
  readonly statistics: Statistics
}

/** Gives the weights [out, in] that replace those of the stage's linears from here on, by linear name; others stay as they are. */
export type Visitor = (visit: Visit) => Promise<ReadonlyMap<string, Float32Array>>

export interface PassEvents {
  /** After each chunk of tokens through the part of a block that computes one tap. */
  readonly onChunk: (block: Block, stage: Stage | undefined, done: number, of: number) => void
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
  { onChunk }: PassEvents,
): Promise<void> => {
  const activations = embed(model, read, windows)
  for (const block of model.blocks) {
    const replaced = new Map<string, Float32Array>()
    const weight: LinearWeight = linear => replaced.get(linear.name) ?? read(linear.weight)
    const pass = createBlockPass(engine, block, activations, read)
    for (const stage of block.stages) {
      const gram = createGram(engine, stage.width)
      await pass.advance(weight, {
        onTap: ({ transposed, rows }) => gram.add(transposed, rows),
        onChunk: (done, of) => onChunk(block, stage, done, of),
      })
      const weights = await visitor({ block, stage, statistics: gram.finish() })
      for (const [name, values] of weights) replaced.set(name, values)
    }
    if (block !== model.blocks.at(-1))
      await pass.advance(weight, { onChunk: (done, of) => onChunk(block, undefined, done, of) })
  }
}
