import { basename, dirname, extname, join } from 'node:path'
import type { Checkpoint, TensorSource } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { findGguf, openGgufCheckpoint } from '../gguf/gguf-checkpoint.ts'
import type { Files } from '../io/files.ts'
import { checkedMember } from '../io/member.ts'
import { printable } from '../io/printable.ts'
import { explainExtension } from './foreign-file.ts'
import { onnxFolder } from './onnx-plan.ts'
import { findOnnx, openOnnx } from './onnx-read.ts'
import { readHeader, type SafetensorsHeader } from './safetensors-header.ts'
import { readShardIndex, type WeightMap } from './shard-index.ts'
import { type OpenFile, openFile, tensorSource } from './tensor-source.ts'

/** Names that transformers writes and reads. */
export const singleName = 'model.safetensors'
export const indexName = 'model.safetensors.index.json'

const refuse = (path: string, problem: string): never => {
  throw new QuantizeError('bad-input', `${printable(path)}: ${problem}`)
}

/** What to open: the folder, the weight files' paths, and the map of an index where there is one. */
interface Found {
  readonly folder: string
  readonly paths: readonly string[]
  readonly index?: { readonly path: string; readonly map: WeightMap }
}

const fromIndex = (files: Files, folder: string, name: string): Found => {
  const path = join(folder, name)
  const map = readShardIndex(files, path)
  const shards = [...new Set(map.values())].sort()
  return { folder, paths: shards.map(shard => checkedMember(files, folder, shard)), index: { path, map } }
}

const explainEmptyFolder = (folder: string, names: readonly string[]): never => {
  for (const name of names) {
    const why = explainExtension(extname(name).toLowerCase())
    if (why !== undefined)
      throw new QuantizeError(
        'unsupported',
        `${printable(folder)}: holds no .safetensors file; ${printable(name)} ${why}`,
      )
  }
  return refuse(folder, 'holds no .safetensors file')
}

/** As transformers looks: model.safetensors, else the index; then a single weight file of any name. */
const findInFolder = (files: Files, folder: string): Found => {
  const names = files.list(folder)
  if (names.includes(singleName)) return { folder, paths: [checkedMember(files, folder, singleName)] }
  if (names.includes(indexName)) return fromIndex(files, folder, indexName)
  const weights = names.filter(name => name.endsWith('.safetensors'))
  if (weights.length === 0) explainEmptyFolder(folder, names)
  if (weights.length > 1)
    refuse(
      folder,
      `holds ${weights.length} .safetensors files but no ${indexName}; name one: ${printable(weights.join(', '))}`,
    )
  return { folder, paths: [checkedMember(files, folder, weights[0])] }
}

/** One shard is a part of a model: quantizing it alone would give a broken one. */
const refuseShard = (files: Files, folder: string, name: string): void => {
  const [, stem, total] = /^(.+)-\d+-of-(\d+)\.safetensors$/.exec(name) ?? []
  if (stem === undefined || Number(total) === 1) return
  const index = `${stem}.safetensors.index.json`
  if (files.stat(join(folder, index)) !== undefined)
    refuse(join(folder, name), `is one shard of the model; name its folder, ${printable(folder)}, or ${index}`)
}

const findFile = (files: Files, path: string): Found => {
  const folder = dirname(path)
  const name = basename(path)
  if (name.endsWith('.safetensors.index.json')) return fromIndex(files, folder, name)
  const extension = extname(name).toLowerCase()
  const why = explainExtension(extension)
  if (why !== undefined) throw new QuantizeError('unsupported', `${printable(path)}: ${why}`)
  if (extension !== '.safetensors') refuse(path, 'is neither a .safetensors file nor a folder that holds one')
  refuseShard(files, folder, name)
  return { folder, paths: [path] }
}

const find = (files: Files, path: string): Found => {
  const there = files.stat(path)
  if (there === undefined) return refuse(path, 'no such file or folder')
  if (there.kind === 'other') return refuse(path, 'is not a regular file')
  return there.kind === 'folder' ? findInFolder(files, path) : findFile(files, path)
}

/** An ONNX model: the graph itself, or a folder without other weights that holds one as we write it. */
const onnxGraph = (path: string, files: Files): { readonly path: string; readonly folder: string } | undefined => {
  const kind = files.stat(path)?.kind
  if (kind === 'file' && path.endsWith('.onnx')) {
    const folder = dirname(path)
    return { path, folder: basename(folder) === onnxFolder ? dirname(folder) : folder }
  }
  if (kind !== 'folder' || files.list(path).some(name => name.endsWith('.safetensors'))) return undefined
  const graph = findOnnx(path, files)
  return graph === undefined ? undefined : { path: graph, folder: path }
}

/** A GGUF model: the file itself, or a folder without other weights that holds one. */
const ggufFile = (path: string, files: Files): string | undefined => {
  const kind = files.stat(path)?.kind
  if (kind === 'file') return /\.gguf$/i.test(path) ? path : undefined
  if (kind !== 'folder') return undefined
  const names = files.list(path)
  if (names.some(name => name.endsWith('.safetensors') || name === indexName)) return undefined
  const name = findGguf(path, names)
  return name === undefined ? undefined : checkedMember(files, path, name)
}

interface Opened {
  readonly file: OpenFile
  readonly header: SafetensorsHeader
}

const openAll = (files: Files, paths: readonly string[], opened: OpenFile[]): Opened[] =>
  paths.map(path => {
    const file = openFile(files, path)
    opened.push(file)
    return { file, header: readHeader(files, file.descriptor(), path) }
  })

const gather = (files: Files, opened: readonly Opened[]): Map<string, TensorSource> => {
  const tensors = new Map<string, TensorSource>()
  for (const { file, header } of opened)
    for (const tensor of header.tensors) {
      const other = tensors.get(tensor.name)
      if (other !== undefined)
        refuse(file.path, `tensor "${printable(tensor.name)}" is also in ${printable(other.file)}`)
      tensors.set(tensor.name, tensorSource(files, file, tensor))
    }
  return tensors
}

/** The index and the shards must tell the same story, or two loaders would load two models. */
const checkIndex = (tensors: ReadonlyMap<string, TensorSource>, path: string, map: WeightMap): void => {
  for (const [name, shard] of map) {
    const found = tensors.get(name)
    if (found === undefined || basename(found.file) !== shard)
      refuse(path, `maps tensor "${printable(name)}" to ${printable(shard)}, which does not hold it`)
  }
  for (const [name, { file }] of tensors)
    if (!map.has(name)) refuse(file, `holds tensor "${printable(name)}", which ${printable(path)} does not map`)
}

/**
 * Opens a model's weights: a .safetensors file, a `*.safetensors.index.json`, or a folder with model.safetensors, with
 * model.safetensors.index.json and its shards, or with exactly one other *.safetensors (in this order). Headers are
 * read and checked whole; no tensor data is. A single shard of an index in the same folder is refused.
 * A folder without any, in which an ONNX graph stands as we write it, gives its weights; so does a GGUF file, or a folder that holds one.
 * The descriptors stay open until `close`, so that a file replaced meanwhile is not mixed in.
 * @throws QuantizeError bad-input for what is missing, broken or contradicts itself; unsupported for pickles
 */
export const openCheckpoint = (path: string, files: Files): Checkpoint => {
  const graph = onnxGraph(path, files)
  if (graph) return { ...openOnnx(graph.path, graph.folder, files), path }
  const gguf = ggufFile(path, files)
  if (gguf !== undefined) return openGgufCheckpoint(gguf, path, files)
  const { folder, paths, index } = find(files, path)
  const opened: OpenFile[] = []
  const close = (): void => {
    for (const file of opened) file.close()
  }
  try {
    const all = openAll(files, paths, opened)
    const tensors = gather(files, all)
    if (index !== undefined) checkIndex(tensors, index.path, index.map)
    const metadata = Object.fromEntries(all[0].header.metadata)
    return { path, folder, files: paths.map(name => basename(name)), tensors, metadata, close }
  } catch (error) {
    close()
    throw error
  }
}
