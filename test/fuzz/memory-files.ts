import { basename, dirname } from 'node:path'
import { QuantizeError } from '../../src/errors.ts'
import type { Files } from '../../src/io/files.ts'

/** Files in memory, to be read only; `largestRead` is the largest buffer that was asked to be filled. */
export const memoryFiles = (
  contents: Readonly<Record<string, Uint8Array>>,
): { readonly files: Files; readonly largestRead: () => number; readonly open: () => number } => {
  const opened = new Map<number, Uint8Array>()
  let next = 1
  let largest = 0
  const missing = (): never => {
    throw new Error('not to be called: these files are only read')
  }
  const contentOf = (path: string): Uint8Array => {
    if (!Object.hasOwn(contents, path)) throw new QuantizeError('bad-input', `${path}: no such file or folder`)
    return contents[path]
  }
  const isFolder = (path: string): boolean => Object.keys(contents).some(name => dirname(name) === path)
  const readAt: Files['readAt'] = (descriptor, into, position) => {
    largest = Math.max(largest, into.byteLength)
    const part = opened.get(descriptor)!.subarray(position, position + into.byteLength)
    into.set(part)
    return part.byteLength
  }
  const files: Files = {
    open(path) {
      opened.set(next, contentOf(path))
      return next++
    },
    close: descriptor => void opened.delete(descriptor),
    readAt,
    stat: path => {
      if (Object.hasOwn(contents, path)) return { kind: 'file', bytes: contents[path].byteLength, stamp: '' }
      return isFolder(path) ? { kind: 'folder', bytes: 0, stamp: '' } : undefined
    },
    truncate: (descriptor, bytes) => void opened.set(descriptor, opened.get(descriptor)!.subarray(0, bytes)),
    statOpen: descriptor => ({ bytes: opened.get(descriptor)!.byteLength }),
    list: folder =>
      Object.keys(contents)
        .filter(path => dirname(path) === folder)
        .map(path => basename(path))
        .sort(),
    realPath: path => path,
    readText(path, maxBytes) {
      const content = contentOf(path)
      if (content.byteLength > maxBytes) throw new QuantizeError('bad-input', `${path}: is too long`)
      try {
        return new TextDecoder('utf-8', { fatal: true }).decode(content)
      } catch (cause) {
        throw new QuantizeError('bad-input', `${path}: is not UTF-8 text`, { cause })
      }
    },
    freeBytes: missing,
    writeAt: missing,
    sync: missing,
    syncFolder: missing,
    makeFolder: missing,
    rename: missing,
    remove: missing,
    writeText: missing,
  }
  return { files, largestRead: () => largest, open: () => opened.size }
}
