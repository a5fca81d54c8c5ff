/**
 * The hidden states of all samples, in chunks of whole sequences, and the memory that they lie in: buffers go back to a pool and
 * are written again, because fresh outputs of every run would wait for the garbage collector by the hundred megabytes.
 */
import type { Model, WeightView } from '../../contracts.ts'
import { QuantizeError } from '../../errors.ts'
import { hiddenName } from './held.ts'
import type { Spill } from './spill.ts'

/** The values of a view as float32, row-major, in ordinary memory (ONNX Runtime refuses a SharedArrayBuffer). */
export type ReadWeight = (view: WeightView) => Float32Array

/** Free buffers by length. */
export interface Pool {
  /** A buffer of `length` floats; its content is whatever was in it. */
  take(length: number): Float32Array
  give(buffer: Float32Array): void
}

export const createPool = (): Pool => {
  const free = new Map<number, Float32Array[]>()
  return {
    take: length => free.get(length)?.pop() ?? new Float32Array(length),
    give(buffer) {
      const list = free.get(buffer.length)
      if (list) list.push(buffer)
      else free.set(buffer.length, [buffer])
    },
  }
}

/** Some whole sequences. */
export interface Chunk {
  readonly sequences: number
  /** sequences × seqLen. */
  readonly rows: number
  /** The residual stream between two blocks, [rows, hidden]; empty when it lies in a file. */
  hidden: Float32Array
}

export interface Activations {
  readonly seqLen: number
  readonly width: number
  readonly chunks: readonly Chunk[]
  readonly pool: Pool
  /** Where the values between two graphs lie, when they do not lie in memory. */
  readonly spill?: Spill
}

/** 512 to 4096 rows a run are equally fast; at 8192 the products fall out of the cache (docs/performance.md). */
const mostChunkRows = 2048
/** Elements of the widest value of a chunk at most: 32 MB. */
const chunkElements = 2 ** 23

/** Rows a run. It depends on the model alone: sums of Gram matrices follow the chunks. */
export const chunkRowsOf = ({ blocks, hidden }: Model): number => {
  const linears = blocks.flatMap(({ stages }) => stages.flatMap(stage => stage.linears))
  const widest = linears.reduce((most, { out, in: inputs }) => Math.max(most, out, inputs), hidden)
  return Math.max(1, Math.min(mostChunkRows, Math.floor(chunkElements / widest)))
}

/**
 * Sequences of each chunk: as many as fit into chunkRows, at least one. A last chunk of one row would be computed by a
 * matrix-vector kernel, whose bits differ: it joins the chunk before it.
 */
export const chunkSizes = (sequences: number, seqLen: number, chunkRows: number): readonly number[] => {
  const each = Math.max(1, Math.floor(chunkRows / seqLen))
  const sizes = Array.from({ length: Math.ceil(sequences / each) }, (_, i) => Math.min(each, sequences - i * each))
  if (sizes.length < 2 || sizes.at(-1)! * seqLen > 1) return sizes
  const last = sizes.pop()!
  return [...sizes.slice(0, -1), sizes.at(-1)! + last]
}

/** Rows further apart than this are read one by one, nearer ones in one read. */
const maxGap = 4
/** Rows of one read: bounds its memory. */
const maxRun = 1024

/** The rows of a table that `ids` name, each read once, whatever the table's size; row r of the result is that of sorted id r. */
const readRows = (read: ReadWeight, view: WeightView, sorted: readonly number[], width: number): Float32Array => {
  const rows = new Float32Array(sorted.length * width)
  const base = view.rows?.[0] ?? 0
  for (let start = 0; start < sorted.length; ) {
    let end = start + 1
    while (end < sorted.length && sorted[end] - sorted[end - 1] <= maxGap && sorted[end] - sorted[start] < maxRun) end++
    const first = sorted[start]
    const run = read({ ...view, rows: [base + first, base + sorted[end - 1] + 1] })
    for (let r = start; r < end; r++) {
      const from = (sorted[r] - first) * width
      rows.set(run.subarray(from, from + width), r * width)
    }
    start = end
  }
  return rows
}

/** Checks the sequences and gives their common length. */
const commonLength = (model: Model, sequences: readonly Int32Array[]): number => {
  const seqLen = sequences[0]?.length ?? 0
  if (seqLen === 0 || sequences.some(({ length }) => length !== seqLen))
    throw new Error('embed: sequences must be of one length, at least 1')
  if (seqLen > model.maxPositions) {
    throw new QuantizeError(
      'bad-option',
      `sequences of ${seqLen} tokens are longer than the model's ${model.maxPositions} positions; lower --seq-len`,
    )
  }
  for (const sequence of sequences) {
    const id = sequence.find(token => token < 0 || token >= model.vocabulary)
    if (id !== undefined) {
      throw new QuantizeError(
        'bad-input',
        `the tokenizer gives token ${id}, but the model has ${model.vocabulary} tokens: does tokenizer.json belong to it?`,
      )
    }
  }
  return seqLen
}

/** Learned positions of one sequence, [seqLen, hidden]. */
const positionRows = ({ positions }: Model, read: ReadWeight, seqLen: number): Float32Array | undefined =>
  positions && read({ ...positions.table, rows: [positions.offset, positions.offset + seqLen] })

const addPositions = (rows: Float32Array, hidden: Float32Array): void => {
  for (let start = 0; start < hidden.length; start += rows.length)
    for (let i = 0; i < rows.length; i++) hidden[start + i] += rows[i]
}

/**
 * Token embeddings (and learned positions) of sequences of one length. Only the rows of tokens that occur are read.
 * @param sequences token ids, all of the same length
 * @param chunkRows rows (tokens) a run of a graph
 * @param spill takes the hidden states, chunk by chunk, instead of memory
 * @throws QuantizeError bad-input for an id outside the vocabulary, bad-option for more tokens than positions
 */
export const embed = (
  model: Model,
  read: ReadWeight,
  sequences: readonly Int32Array[],
  chunkRows: number = chunkRowsOf(model),
  spill?: Spill,
): Activations => {
  const seqLen = commonLength(model, sequences)
  const width = model.hidden
  const used = [...new Set(sequences.flatMap(sequence => [...new Set(sequence)]))].sort((a, b) => a - b)
  const rowOf = new Map(used.map((id, row) => [id, row]))
  const rows = readRows(read, model.embedding, used, width)
  const positions = positionRows(model, read, seqLen)
  const pool = createPool()
  let next = 0
  const chunks = chunkSizes(sequences.length, seqLen, chunkRows).map((size, index) => {
    const hidden = pool.take(size * seqLen * width)
    for (let at = 0; at < hidden.length; next++) {
      for (const id of sequences[next]) {
        const from = rowOf.get(id)! * width
        hidden.set(rows.subarray(from, from + width), at)
        at += width
      }
    }
    if (positions) addPositions(positions, hidden)
    const chunk = { sequences: size, rows: size * seqLen }
    if (!spill) return { ...chunk, hidden }
    spill.write(index, hiddenName, hidden)
    pool.give(hidden)
    return { ...chunk, hidden: new Float32Array(0) }
  })
  return { seqLen, width, chunks, pool, spill }
}

/**
 * The same hidden states once more, for a pass that uses them up.
 * @param spill where they go when those of the first lie in a file
 */
export const copyActivations = ({ spill: from, ...activations }: Activations, spill?: Spill): Activations => {
  const { chunks, pool, width } = activations
  return {
    ...activations,
    spill,
    chunks: chunks.map((chunk, index) => {
      const hidden = pool.take(chunk.rows * width)
      if (!from) {
        hidden.set(chunk.hidden)
        return { ...chunk, hidden }
      }
      from.read(index, hiddenName, hidden)
      spill!.write(index, hiddenName, hidden)
      pool.give(hidden)
      return { ...chunk }
    }),
  }
}
