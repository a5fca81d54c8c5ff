import { QuantizeError } from '../errors.ts'
import { printable } from './printable.ts'

const reasons: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EBUSY: 'it is in use',
  EDQUOT: 'your disk quota is used up; free some space or choose another place',
  EEXIST: 'it exists already',
  EFBIG: 'the file is larger than this file system allows',
  EIO: 'the device failed (input/output error)',
  EISDIR: 'it is a folder',
  ELOOP: 'too many symbolic links',
  EMFILE: 'too many open files; raise the limit (ulimit -n)',
  ENAMETOOLONG: 'the name is too long',
  ENFILE: 'too many open files on this machine',
  ENOENT: 'no such file or folder',
  ENOMEM: 'the system is out of memory',
  ENOSPC: 'the disk is full; free some space or choose another place',
  ENOTDIR: 'a part of the path is not a folder',
  ENOTEMPTY: 'the folder is not empty',
  EPERM: 'operation not permitted',
  EROFS: 'the file system is read-only',
  EXDEV: 'it lies on another file system',
  ERR_INVALID_ARG_VALUE: 'a path cannot hold a NUL character',
}

const exhausted = new Set(['ENOSPC', 'EDQUOT', 'EFBIG', 'EMFILE', 'ENFILE', 'ENOMEM'])

export type Access = 'read' | 'written'

const codeOf = (error: unknown): string | undefined => {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') return undefined
  return 'syscall' in error || error.code === 'ERR_INVALID_ARG_VALUE' ? error.code : undefined
}

/** The system's refusal as one line with the path; an error that no system call made is given back as it is. */
export const ioError = (error: unknown, path: string, access: Access): unknown => {
  const code = codeOf(error)
  if (code === undefined) return error
  const ours = exhausted.has(code) || (code === 'EIO' && access === 'written') ? 'exhausted' : 'bad-input'
  const message = `${printable(path)}: cannot be ${access}: ${reasons[code] ?? 'the system refused'} (${code})`
  return new QuantizeError(ours, message, { cause: error })
}

/** Runs one file operation; a system error becomes a QuantizeError with the path and the plain reason. */
export const guarded = <T>(path: string, access: Access, operation: () => T): T => {
  try {
    return operation()
  } catch (error) {
    throw ioError(error, path, access)
  }
}
