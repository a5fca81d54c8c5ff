import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { printable } from '../io/printable.ts'
import { JsonScanner } from './json-scanner.ts'
import { maxNameBytes, maxTensors } from './safetensors-header.ts'

const maxIndexBytes = 100_000_000 // as a header's; the largest published index is about 20 MB
const maxShards = 100_000

/** The name of tensor → shard file. */
export type WeightMap = ReadonlyMap<string, string>

const refuse = (file: string, problem: string): never => {
  throw new QuantizeError('bad-input', `${printable(file)}: ${problem}`)
}

/** A plain file name: nothing in it may lead out of the folder, on any system. */
const isPlainName = (name: string): boolean =>
  name.endsWith('.safetensors') && name !== '.safetensors' && !/[/\\:\p{Cc}]/u.test(name)

const readMap = (scanner: JsonScanner): Map<string, string> => {
  const map = new Map<string, string>()
  scanner.object((tensor, at) => {
    if (map.has(tensor)) scanner.fail(`tensor "${printable(tensor)}" is mapped twice`, at)
    if (map.size === maxTensors) scanner.fail(`more than ${maxTensors} tensors`, at)
    const shard = scanner.string(maxNameBytes)
    if (!isPlainName(shard))
      scanner.fail(
        `weight_map of "${printable(tensor)}" must be the plain name of a .safetensors file, not "${printable(shard)}"`,
        at,
      )
    map.set(tensor, shard)
  }, maxNameBytes)
  return map
}

/**
 * Reads `weight_map` of an index.json (data of strangers: only plain .safetensors names pass, and no name twice).
 * @throws QuantizeError bad-input, naming the file and the byte
 */
export const readShardIndex = (files: Files, path: string): WeightMap => {
  const text = new TextEncoder().encode(files.readText(path, maxIndexBytes))
  const scanner = new JsonScanner(text, (problem, byte) => refuse(path, `byte ${byte}: ${problem}`))
  let map: Map<string, string> | undefined
  scanner.object((key, at) => {
    if (key !== 'weight_map') return scanner.skip()
    if (map !== undefined) scanner.fail('weight_map is given twice', at)
    map = readMap(scanner)
  }, maxNameBytes)
  scanner.end()
  if (map === undefined) return refuse(path, 'has no "weight_map" object')
  if (map.size === 0) refuse(path, 'its "weight_map" is empty')
  if (new Set(map.values()).size > maxShards) refuse(path, `names more than ${maxShards} files`)
  return map
}
