import { basename, dirname, join, sep } from 'node:path'
import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { printable } from '../io/printable.ts'

const maxIndexBytes = 100_000_000 // as a header's; the largest published index is about 20 MB
const maxShards = 100_000

/** The name of tensor → shard file. */
export type WeightMap = ReadonlyMap<string, string>

const refuse = (file: string, problem: string, options?: ErrorOptions): never => {
  throw new QuantizeError('bad-input', `${printable(file)}: ${problem}`, options)
}

/** A plain file name: nothing in it may lead out of the folder, on any system. */
const isPlainName = (name: unknown): name is string =>
  typeof name === 'string' && name.endsWith('.safetensors') && name !== '.safetensors' && !/[/\\:\p{Cc}]/u.test(name)

const parseJson = (text: string, path: string): unknown => {
  try {
    return JSON.parse(text)
  } catch (cause) {
    return refuse(path, `is not JSON: ${printable((cause as Error).message)}`, { cause })
  }
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Reads `weight_map` of an index.json (data of strangers: only plain .safetensors names pass). */
export const readShardIndex = (files: Files, path: string): WeightMap => {
  const index = parseJson(files.readText(path, maxIndexBytes), path)
  if (!isObject(index) || !isObject(index.weight_map)) return refuse(path, 'has no "weight_map" object')
  const map = new Map<string, string>()
  for (const [tensor, shard] of Object.entries(index.weight_map)) {
    if (!isPlainName(shard))
      return refuse(
        path,
        `weight_map of "${printable(tensor)}" must be the plain name of a .safetensors file, not ${printable(JSON.stringify(shard))}`,
      )
    map.set(tensor, shard)
  }
  if (map.size === 0) refuse(path, 'its "weight_map" is empty')
  if (new Set(map.values()).size > maxShards) refuse(path, `names more than ${maxShards} files`)
  return map
}

/** The Hub cache keeps `snapshots/<revision>/<name>` as links into `blobs/`, two levels up. */
const blobsOf = (root: string): string | undefined =>
  basename(dirname(root)) === 'snapshots' ? join(dirname(dirname(root)), 'blobs') : undefined

/**
 * The path of a weight file found in a folder, once it is certain that it is a regular file that lies there, not behind a
 * link to somewhere else (a folder may be a stranger's); links into the Hub cache's own `blobs` are what that cache is made of.
 */
export const checkedMember = (files: Files, folder: string, name: string): string => {
  const path = join(folder, name)
  const found = files.stat(path)
  if (found === undefined) return refuse(path, 'no such file, though the model needs it; copy or download it again')
  if (found.kind !== 'file') return refuse(path, 'is not a regular file')
  const root = files.realPath(folder)
  const real = files.realPath(path)
  const inside = real.startsWith(root.endsWith(sep) ? root : root + sep)
  if (!inside && dirname(real) !== blobsOf(root))
    refuse(path, `is a link out of its folder, to ${printable(real)}; copy the file there, or name it directly`)
  return path
}
