/** The values of one chunk that later graphs read, in memory or in a temporary file. */
import type { Value } from '../../contracts.ts'
import type { Chunk, Pool } from './activations.ts'
import type { HeldValue } from './segments.ts'
import type { Spill } from './spill.ts'

export interface Held {
  /** A held value; the buffer is good until `settle`. */
  get(value: HeldValue): Float32Array
  /** Holds a value that was just made, in a buffer of the pool. */
  set(value: HeldValue, buffer: Float32Array): void
  /** Ends the work on the chunk: all values but those named are forgotten. */
  settle(alive: (name: Value) => boolean): void
  /** Makes a value the chunk's hidden state, and the only one. */
  finish(name: Value): void
}

/** @param input name of the chunk's hidden state */
export const heldInMemory = (chunk: Chunk, input: Value, pool: Pool): Held => {
  const values = new Map([[input, chunk.hidden]])
  return {
    get: ({ name }) => values.get(name)!,
    set: ({ name }, buffer) => void values.set(name, buffer),
    settle(alive) {
      for (const [name, buffer] of values) {
        if (alive(name)) continue
        values.delete(name)
        pool.give(buffer)
      }
    },
    finish(name) {
      chunk.hidden = values.get(name)!
    },
  }
}

/** Name of a hidden state between two blocks. */
export const hiddenName = ' hidden'

export const heldInFile = (spill: Spill, index: number, rows: number, input: Value, pool: Pool): Held => {
  const stored = new Set([input])
  const open = new Map<Value, Float32Array>()
  spill.rename(index, hiddenName, input)
  return {
    get({ name, width }) {
      let buffer = open.get(name)
      if (!buffer) {
        buffer = pool.take(rows * width)
        spill.read(index, name, buffer)
        open.set(name, buffer)
      }
      return buffer
    },
    set: ({ name }, buffer) => void open.set(name, buffer),
    settle(alive) {
      for (const name of stored)
        if (!alive(name)) {
          stored.delete(name)
          spill.drop(index, name)
        }
      for (const [name, buffer] of open) {
        if (alive(name) && !stored.has(name)) {
          spill.write(index, name, buffer)
          stored.add(name)
        }
        pool.give(buffer)
      }
      open.clear()
    },
    finish: name => spill.rename(index, name, hiddenName),
  }
}
