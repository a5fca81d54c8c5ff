/** Importance matrices as GGUF (llama.cpp since July 2025): tensors `<weight>.in_sum2` and `<weight>.counts`, in tokens. */
import type { ShardPlan } from '../checkpoint/shard-plan.ts'
import { type OpenFile, tensorSource } from '../checkpoint/tensor-source.ts'
import { fromFloat32, toFloat32 } from '../dtype/convert.ts'
import type { Files } from '../io/files.ts'
import { printable } from '../io/printable.ts'
import { product, toSize } from '../io/size.ts'
import { type GgufHeader, type GgufTensor, readGgufHeader } from './header.ts'
import {
  checkName,
  entryOf,
  type Imatrix,
  type Importances,
  importancesOf,
  refuse,
  sortedEntries,
  sumsOf,
} from './imatrix-entry.ts'
import { openMetadata } from './metadata.ts'
import { arrayOf, type GgufValue, single } from './values.ts'
import { type GgufTensorPlan, planGguf } from './write-gguf.ts'

const keyNames = {
  datasets: 'imatrix.datasets',
  chunks: 'imatrix.chunk_count',
  chunkSize: 'imatrix.chunk_size', // 0 where it is not known, as llama.cpp has it of an old file
} as const
const suffixes = { sums: '.in_sum2', counts: '.counts' } as const

/** Of an entry, while not both are found. */
type Pair = { [part in keyof typeof suffixes]?: GgufTensor }

/** By the weight's name. Other tensors say nothing here. */
const pairsOf = ({ tensors }: GgufHeader): ReadonlyMap<string, Pair> => {
  const pairs = new Map<string, Pair>()
  for (const tensor of tensors)
    for (const part of ['sums', 'counts'] as const) {
      if (!tensor.name.endsWith(suffixes[part])) continue
      const name = tensor.name.slice(0, -suffixes[part].length)
      pairs.set(name, { ...pairs.get(name), [part]: tensor })
    }
  return pairs
}

type Read = (tensor: GgufTensor) => Float32Array

const countOf = (counts: GgufTensor, read: Read, what: string): number => {
  const experts = product(counts.shape, what)
  if (experts === 0) refuse(what, 'has no count')
  if (experts > 1) refuse(what, `is of ${experts} experts; only dense models are read`, 'unsupported')
  const [count] = read(counts)
  if (!(count >= 0 && count <= Number.MAX_SAFE_INTEGER)) refuse(what, `has a count of ${count}`)
  return Math.round(count) // as llama.cpp does
}

const readEntry = ({ sums, counts }: Pair, read: Read, what: string): Importances => {
  if (sums === undefined || counts === undefined)
    return refuse(what, `has no tensor "${sums ? suffixes.counts : suffixes.sums}"`)
  if (sums.type !== 'F32' || counts.type !== 'F32')
    refuse(what, `is of ${sums.type} and ${counts.type}; llama.cpp reads F32`)
  const count = countOf(counts, read, what)
  const columns = product(sums.shape, what)
  if (columns === 0) refuse(what, 'has no columns')
  if (columns !== sums.shape.at(-1)) refuse(what, `is [${sums.shape}], where one row of sums must stand`)
  const importances = importancesOf(read(sums), count || 1, what)
  // never reached: to llama-quantize all its inputs weigh the same
  return count === 0 ? { values: importances.values.fill(1), count } : importances
}

/** @throws QuantizeError bad-input, unsupported: what llama-quantize does not load, and more than one expert */
export const readImatrixGguf = (file: OpenFile, files: Files): Imatrix => {
  const { path } = file
  const header = readGgufHeader(files, file.descriptor(), path)
  const read: Read = ({ type, ...tensor }) =>
    toFloat32(tensorSource(files, file, { ...tensor, dtype: type }).read(), 'F32')
  const pairs = pairsOf(header)
  if (pairs.size === 0)
    refuse(`${printable(path)}:`, `is no importance matrix: it has no tensor that ends in "${suffixes.sums}"`)
  const keys = openMetadata(header.metadata, path)
  const datasets = keys.array(keyNames.datasets, 'string') ?? keys.fail(keyNames.datasets, 'is missing')
  const chunks = keys.number(keyNames.chunks, 'u32')
  const chunkSize = keys.number(keyNames.chunkSize, 'u32') || undefined
  const entries = new Map<string, Importances>()
  for (const [name, pair] of pairs) {
    checkName(name, entryOf(path, name))
    entries.set(name, readEntry(pair, read, entryOf(path, name)))
  }
  return { entries, datasets: datasets.values() as readonly string[], chunks, chunkSize }
}

export interface ImatrixGguf {
  readonly plan: ShardPlan
  /** Of each planned tensor, by name. */
  readonly data: ReadonlyMap<string, Uint8Array>
}

/** Only the old form has means without a count. */
const storedCount = ({ values, count }: Importances): number =>
  count === 0 && values.some(value => value !== 1) ? 1 : count

/**
 * Laid out as llama-imatrix does it. Counts above 2^24 are rounded to float32, as there.
 * @param file its name
 * @throws QuantizeError bad-input for values that no reader takes; unsupported for names of more than 55 bytes and several experts
 */
export const imatrixGguf = (file: string, imatrix: Imatrix): ImatrixGguf => {
  const metadata = new Map<string, GgufValue>([
    ['general.type', single('string', 'imatrix')],
    [keyNames.datasets, arrayOf('string', imatrix.datasets)],
    [keyNames.chunks, single('u32', toSize(imatrix.chunks, `${printable(file)}: the number of chunks`))],
    [keyNames.chunkSize, single('u32', imatrix.chunkSize ?? 0)],
  ])
  const tensors: GgufTensorPlan[] = []
  const data = new Map<string, Uint8Array>()
  const put = (name: string, values: Float32Array): void => {
    tensors.push({ name, type: 'F32', shape: [values.length] })
    data.set(name, fromFloat32(values, 'F32'))
  }
  for (const [name, importances] of sortedEntries(imatrix, file)) {
    const count = storedCount(importances)
    put(`${name}${suffixes.sums}`, sumsOf(importances, count || 1, entryOf(file, name)))
    put(`${name}${suffixes.counts}`, Float32Array.of(count))
  }
  return { plan: planGguf(file, metadata, tensors), data }
}
