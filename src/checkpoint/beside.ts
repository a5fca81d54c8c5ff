/** The text files of a model: they stand beside its weights, or the weights' own file holds them (GGUF). */
import { join } from 'node:path'
import type { Checkpoint, Configs } from '../contracts.ts'
import type { Files } from '../io/files.ts'
import { checkedMember } from '../io/member.ts'
import { parseJsonObject } from '../io/parse-json.ts'
import { readJsonObject } from './read-json.ts'

/** Whose files they are. */
export type ModelFiles = Pick<Checkpoint, 'folder' | 'embedded'>

/**
 * A text file of the model; undefined when there is none.
 * @param most bytes that are read
 * @throws QuantizeError bad-input when it is larger, or no file of the folder; and as making an embedded one does
 */
export const modelText = (
  { folder, embedded }: ModelFiles,
  name: string,
  most: number,
  files: Files,
): string | undefined => {
  if (embedded) return embedded.get(name)?.()
  return files.stat(join(folder, name)) ? files.readText(checkedMember(files, folder, name), most) : undefined
}

/** Those of the named JSON files that the model has, by name. @throws QuantizeError bad-input as readJsonObject */
export const modelConfigs = (model: ModelFiles, names: readonly string[], files: Files): Configs => {
  const { folder, embedded } = model
  const read = (name: string): unknown => {
    if (!embedded) return readJsonObject(join(folder, name), files)
    const text = embedded.get(name)?.()
    return text === undefined ? undefined : parseJsonObject(text, name)
  }
  const found = names.map(name => [name, read(name)] as const)
  return Object.fromEntries(found.filter(([, value]) => value !== undefined))
}
