import fs from 'node:fs'
import { dirname } from 'node:path'
import { QuantizeError } from '../errors.ts'
import { guarded } from './io-error.ts'
import { printable } from './printable.ts'

export interface FileStat {
  readonly kind: 'file' | 'folder' | 'other'
  readonly bytes: number
  /** Changes whenever the content may have changed, or another file has taken the name. */
  readonly stamp: string
}

/**
 * Every file operation of the tool goes through this seam, so that a test can fail the n-th one.
 * All calls are synchronous. A refusal of the system is thrown as QuantizeError with the path and the reason in one line:
 * `exhausted` for a full disk, quota or table of open files (and a device that fails while written), else `bad-input`.
 */
export interface Files {
  /**
   * Opens a regular file for reading ('read'; anything else, e.g. a FIFO, is refused without waiting for it), creates
   * a new one for reading and writing that must not exist ('create'), or opens one for both ('update'). Returns a descriptor.
   */
  open(path: string, mode: 'read' | 'create' | 'update'): number
  close(descriptor: number): void
  /** Reads at byte `position` until `into` is full or the file ends; returns how many bytes. `into` may be in shared memory. */
  readAt(descriptor: number, into: Uint8Array, position: number): number
  /** Writes all of `data` at byte `position`. */
  writeAt(descriptor: number, data: Uint8Array, position: number): void
  /** Cuts the file off after `bytes`. */
  truncate(descriptor: number, bytes: number): void
  sync(descriptor: number): void
  /** Makes the names inside a folder durable. */
  syncFolder(path: string): void
  /** undefined when there is nothing; links are followed. */
  stat(path: string): FileStat | undefined
  statOpen(descriptor: number): { readonly bytes: number }
  /** Bytes that may still be written where `folder` lies. */
  freeBytes(folder: string): number
  /** Names in a folder, sorted. */
  list(folder: string): string[]
  /** Makes a folder and the missing ones above it; one that exists is no error. */
  makeFolder(path: string): void
  rename(from: string, to: string): void
  /** Removes a file, or a folder with all in it; nothing there is no error. */
  remove(path: string): void
  /** The absolute path without links. */
  realPath(path: string): string
  /** Whole text of a small file, UTF-8; throws QuantizeError bad-input over `maxBytes` or when it is not UTF-8. */
  readText(path: string, maxBytes: number): string
  /** Writes a whole file under a temporary name, syncs it and renames it into place; an old file there is replaced. */
  writeText(path: string, content: string | Uint8Array): void
}

const maxPieceBytes = 2 ** 30 // Node takes at most 2^31 - 1 bytes in one call

/** Paths of the open descriptors, for messages. */
const paths = new Map<number, string>()

const pathOf = (descriptor: number): string => paths.get(descriptor) ?? `descriptor ${descriptor}`

const flags = {
  read: fs.constants.O_RDONLY | (fs.constants.O_NONBLOCK ?? 0), // opening a FIFO must not wait for its writer
  create: fs.constants.O_RDWR | fs.constants.O_CREAT | fs.constants.O_EXCL,
  update: fs.constants.O_RDWR | (fs.constants.O_NOFOLLOW ?? 0), // what we write again is never a link
}

const open: Files['open'] = (path, mode) => {
  const access = mode === 'read' ? 'read' : 'written'
  const descriptor = guarded(path, access, () => fs.openSync(path, flags[mode]))
  if (mode === 'read' && !fs.fstatSync(descriptor).isFile()) {
    fs.closeSync(descriptor)
    throw new QuantizeError('bad-input', `${printable(path)}: cannot be read: it is not a regular file`)
  }
  paths.set(descriptor, path)
  return descriptor
}

const close: Files['close'] = descriptor => {
  const path = pathOf(descriptor)
  paths.delete(descriptor)
  guarded(path, 'written', () => fs.closeSync(descriptor)) // NFS reports a full disk here
}

const readAt: Files['readAt'] = (descriptor, into, position) =>
  guarded(pathOf(descriptor), 'read', () => {
    let done = 0
    while (done < into.byteLength) {
      const length = Math.min(maxPieceBytes, into.byteLength - done)
      const count = fs.readSync(descriptor, into, done, length, position + done)
      if (count === 0) break
      done += count
    }
    return done
  })

const writeAt: Files['writeAt'] = (descriptor, data, position) =>
  guarded(pathOf(descriptor), 'written', () => {
    let done = 0
    while (done < data.byteLength) {
      const length = Math.min(maxPieceBytes, data.byteLength - done)
      const count = fs.writeSync(descriptor, data, done, length, position + done)
      if (count === 0)
        throw new QuantizeError('exhausted', `${printable(pathOf(descriptor))}: the device takes no more bytes`)
      done += count
    }
  })

const truncate: Files['truncate'] = (descriptor, bytes) =>
  guarded(pathOf(descriptor), 'written', () => fs.ftruncateSync(descriptor, bytes))

const freeBytes: Files['freeBytes'] = folder =>
  guarded(folder, 'read', () => {
    const { bavail, bsize } = fs.statfsSync(folder)
    return bavail * bsize
  })

const sync: Files['sync'] = descriptor => guarded(pathOf(descriptor), 'written', () => fs.fsyncSync(descriptor))

/** Windows, and some network file systems, cannot sync a folder; there the rename is as durable as the system makes it. */
const noFolderSync = new Set(['EISDIR', 'EPERM', 'EINVAL', 'ENOTSUP', 'EBADF'])

const syncFolder: Files['syncFolder'] = path =>
  guarded(path, 'written', () => {
    let descriptor: number | undefined
    try {
      descriptor = fs.openSync(path, 'r')
      fs.fsyncSync(descriptor)
    } catch (error) {
      if (!noFolderSync.has((error as NodeJS.ErrnoException).code ?? '')) throw error
    } finally {
      if (descriptor !== undefined) fs.closeSync(descriptor)
    }
  })

const stat: Files['stat'] = path => {
  const found = guarded(path, 'read', () => {
    try {
      return fs.statSync(path, { throwIfNoEntry: false, bigint: true })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOTDIR') return undefined
      throw error
    }
  })
  if (found === undefined) return undefined
  return {
    kind: found.isFile() ? 'file' : found.isDirectory() ? 'folder' : 'other',
    bytes: Number(found.size),
    stamp: [found.dev, found.ino, found.size, found.mtimeNs, found.ctimeNs].join(' '),
  }
}

const decodeText = (bytes: Uint8Array, path: string): string => {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (cause) {
    throw new QuantizeError('bad-input', `${printable(path)}: is not UTF-8 text`, { cause })
  }
}

const readText: Files['readText'] = (path, maxBytes) => {
  const descriptor = open(path, 'read')
  try {
    const { size } = guarded(path, 'read', () => fs.fstatSync(descriptor))
    if (size > maxBytes)
      throw new QuantizeError('bad-input', `${printable(path)}: is ${size} bytes long; at most ${maxBytes} are read`)
    const bytes = new Uint8Array(size)
    if (readAt(descriptor, bytes, 0) < size)
      throw new QuantizeError('bad-input', `${printable(path)}: became shorter while it was read`)
    return decodeText(bytes, path)
  } finally {
    close(descriptor)
  }
}

const remove: Files['remove'] = path =>
  guarded(path, 'written', () => fs.rmSync(path, { recursive: true, force: true }))

const rename: Files['rename'] = (from, to) => guarded(to, 'written', () => fs.renameSync(from, to))

const writeNew = (path: string, data: Uint8Array): void => {
  const descriptor = open(path, 'create')
  try {
    writeAt(descriptor, data, 0)
    sync(descriptor)
  } finally {
    close(descriptor)
  }
}

const writeText: Files['writeText'] = (path, content) => {
  const there = stat(path)
  if (there !== undefined && there.kind !== 'file')
    throw new QuantizeError('bad-input', `${printable(path)}: cannot be written: it is not a regular file`)
  const temporary = `${path}.tmp`
  remove(temporary)
  try {
    writeNew(temporary, typeof content === 'string' ? new TextEncoder().encode(content) : content)
    rename(temporary, path)
  } catch (error) {
    remove(temporary)
    throw error
  }
  syncFolder(dirname(path))
}

/** The real files of this machine. */
export const nodeFiles: Files = {
  open,
  close,
  readAt,
  writeAt,
  truncate,
  sync,
  syncFolder,
  stat,
  statOpen: descriptor => ({ bytes: guarded(pathOf(descriptor), 'read', () => fs.fstatSync(descriptor).size) }),
  freeBytes,
  list: folder => guarded(folder, 'read', () => fs.readdirSync(folder).sort()),
  makeFolder: path => {
    guarded(path, 'written', () => fs.mkdirSync(path, { recursive: true }))
  },
  rename,
  remove,
  realPath: path => guarded(path, 'read', () => fs.realpathSync(path)),
  readText,
  writeText,
}
