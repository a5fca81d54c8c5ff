import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.ts'
import { readWeight } from '../../src/checkpoint/read-weight.ts'
import type { Checkpoint, Linear, Model } from '../../src/contracts.ts'
import type { ReadWeight } from '../../src/engine/ort/activations.ts'
import type { HeadWeight } from '../../src/engine/ort/head.ts'
import { nodeFiles } from '../../src/io/files.ts'
import { buildModel } from '../../src/model/graph.ts'

const fixtures = fileURLToPath(new URL('../../fixtures/', import.meta.url))

/** Folders written by fixtures/transformers/make-fixtures.py. */
export const variants: readonly string[] = readdirSync(join(fixtures, 'transformers'), { withFileTypes: true })
  .filter(entry => entry.isDirectory())
  .map(({ name }) => name)
  .sort()

export type RawConfig = Record<string, unknown>

export interface FixtureModel {
  readonly config: RawConfig
  readonly checkpoint: Checkpoint
  readonly model: Model
  readonly read: ReadWeight
  readonly weight: (linear: Linear) => Float32Array
  readonly head: HeadWeight
}

/** @param folder below fixtures/ */
export const openFixture = (folder: string): FixtureModel => {
  const path = join(fixtures, folder)
  const config = JSON.parse(readFileSync(join(path, 'config.json'), 'utf8')) as RawConfig
  const checkpoint = openCheckpoint(join(path, 'model.safetensors'), nodeFiles)
  const model = buildModel(config, checkpoint.tensors, 'config.json')
  const read: ReadWeight = view => readWeight(checkpoint, view).data
  const { out: vocabulary, in: hidden, weight } = model.head
  return {
    config,
    checkpoint,
    model,
    read,
    weight: linear => read(linear.weight),
    head: { vocabulary, hidden, weight: read(weight) },
  }
}

export interface Expected {
  readonly sequences: readonly Int32Array[]
  /** [sequences, length, vocabulary] */
  readonly logits: Float32Array
}

/** What transformers gave for a variant. */
export const expected = (variant: string): Expected => {
  const stored = openCheckpoint(join(fixtures, 'transformers', variant, 'expected.safetensors'), nodeFiles)
  const ids = stored.tensors.get('input_ids')!
  const [count, length] = ids.shape
  const values = new BigInt64Array(ids.read().slice().buffer)
  const flat = Int32Array.from(values, Number)
  const logits = readWeight(stored, { tensor: 'logits' }).data
  stored.close()
  return { sequences: Array.from({ length: count }, (_, i) => flat.slice(i * length, (i + 1) * length)), logits }
}

/** Largest |a − b|. */
export const maxDifference = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY
  let largest = 0
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i] - b[i])
    if (!(difference <= largest)) largest = difference
  }
  return largest
}

/** [n, rows] → [rows, n] */
export const untransposed = (data: Float32Array, rows: number): Float32Array => {
  const n = data.length / rows
  return Float32Array.from(data, (_, i) => data[(i % n) * rows + Math.floor(i / n)])
}

/** Whether two lists of arrays hold the same bits. */
export const sameBits = (a: readonly Float32Array[], b: readonly Float32Array[]): boolean =>
  a.length === b.length &&
  a.every((data, i) =>
    Buffer.from(data.buffer, data.byteOffset, data.byteLength).equals(
      Buffer.from(b[i].buffer, b[i].byteOffset, b[i].byteLength),
    ),
  )
