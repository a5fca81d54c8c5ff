import { basename, dirname, join, sep } from 'node:path'
import { QuantizeError } from '../errors.ts'
import type { Files } from './files.ts'
import { printable } from './printable.ts'

const refuse = (path: string, problem: string): never => {
  throw new QuantizeError('bad-input', `${printable(path)}: ${problem}`)
}

/** The Hub cache keeps `snapshots/<revision>/<name>` as links into `blobs/`, two levels up. */
const blobsOf = (root: string): string | undefined =>
  basename(dirname(root)) === 'snapshots' ? join(dirname(dirname(root)), 'blobs') : undefined

/** Where a link in a folder that may be a stranger's leads out of it; undefined where it does not. Links into the Hub cache's own `blobs` stay. */
export const outsideOf = (files: Files, folder: string, name: string): string | undefined => {
  const root = files.realPath(folder)
  const real = files.realPath(join(folder, name))
  const inside = real.startsWith(root.endsWith(sep) ? root : root + sep)
  return inside || dirname(real) === blobsOf(root) ? undefined : real
}

/**
 * The path of a file of a model's folder, once it is certain that it is a regular file that lies there, not behind a link to
 * somewhere else.
 * @throws QuantizeError bad-input
 */
export const checkedMember = (files: Files, folder: string, name: string): string => {
  const path = join(folder, name)
  const found = files.stat(path)
  if (found === undefined) return refuse(path, 'no such file, though the model needs it; copy or download it again')
  if (found.kind !== 'file') return refuse(path, 'is not a regular file')
  const outside = outsideOf(files, folder, name)
  if (outside !== undefined) {
    const remedy = name.endsWith('.safetensors') ? 'copy the file there, or name it directly' : 'copy the file there'
    refuse(path, `is a link out of its folder, to ${printable(outside)}; ${remedy}`)
  }
  return path
}
