import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeEach, describe, expect, it } from 'vitest'
import { type ErrorCode, QuantizeError } from '../../src/errors.ts'
import { nodeClock } from '../../src/io/clock.ts'
import { nodeFiles as files } from '../../src/io/files.ts'
import { guarded } from '../../src/io/io-error.ts'
import { printable } from '../../src/io/printable.ts'

const root = fs.realpathSync(fs.mkdtempSync(join(tmpdir(), 'quantize-test-')))
afterAll(() => fs.rmSync(root, { recursive: true, force: true }))
let folder = root
let count = 0
beforeEach(() => {
  folder = join(root, String(count++))
  fs.mkdirSync(folder)
})
const at = (name: string): string => join(folder, name)

const refusal = (run: () => unknown): QuantizeError => {
  try {
    run()
  } catch (error) {
    if (error instanceof QuantizeError) return error
    throw error
  }
  return expect.fail('nothing was thrown')
}

describe('open files', () => {
  it('written at any place, in any order, and read back at any place', () => {
    const descriptor = files.open(at('x'), 'create')
    files.writeAt(descriptor, Uint8Array.of(4, 5), 3)
    files.writeAt(descriptor, Uint8Array.of(1, 2, 3), 0)
    files.sync(descriptor)
    expect(files.statOpen(descriptor)).toEqual({ bytes: 5 })
    const into = new Uint8Array(3)
    expect(files.readAt(descriptor, into, 1)).toBe(3)
    expect([...into]).toEqual([2, 3, 4])
    files.close(descriptor)
    const again = files.open(at('x'), 'update')
    files.writeAt(again, Uint8Array.of(9), 4)
    files.close(again)
    expect([...fs.readFileSync(at('x'))]).toEqual([1, 2, 3, 4, 9])
  })

  it('a read stops at the end of the file', () => {
    fs.writeFileSync(at('x'), 'abc')
    const descriptor = files.open(at('x'), 'read')
    expect(files.readAt(descriptor, new Uint8Array(9), 1)).toBe(2)
    expect(files.readAt(descriptor, new Uint8Array(9), 3)).toBe(0)
    expect(files.readAt(descriptor, new Uint8Array(9), 2 ** 40)).toBe(0)
    files.close(descriptor)
  })

  it('views on shared memory are read into and written from', () => {
    const shared = new Uint8Array(new SharedArrayBuffer(8))
    shared.set([1, 2, 3], 2)
    const descriptor = files.open(at('x'), 'create')
    files.writeAt(descriptor, shared.subarray(2, 5), 0)
    expect(files.readAt(descriptor, shared.subarray(5), 0)).toBe(3)
    files.close(descriptor)
    expect([...shared]).toEqual([0, 0, 1, 2, 3, 1, 2, 3])
  })

  it('a sparse file beyond 4 GiB', () => {
    const descriptor = files.open(at('x'), 'create')
    files.writeAt(descriptor, Uint8Array.of(7), 2 ** 33)
    expect(files.statOpen(descriptor).bytes).toBe(2 ** 33 + 1)
    const into = new Uint8Array(2)
    files.readAt(descriptor, into, 2 ** 33 - 1)
    expect([...into]).toEqual([0, 7])
    files.close(descriptor)
    files.remove(at('x'))
  })
})

describe('names', () => {
  it('stat tells files, folders and others; a missing one is no error', () => {
    fs.writeFileSync(at('x'), 'abc')
    expect(files.stat(at('x'))).toMatchObject({ kind: 'file', bytes: 3 })
    expect(files.stat(folder)).toMatchObject({ kind: 'folder' })
    expect(files.stat('/dev/null')).toMatchObject({ kind: 'other' })
    expect(files.stat(at('y'))).toBeUndefined()
    expect(files.stat(at('y/z'))).toBeUndefined()
    expect(files.stat(at('x/z'))).toBeUndefined()
  })

  it('lists in name order, makes, renames, removes', () => {
    files.makeFolder(at('a/b/c'))
    files.makeFolder(at('a/b/c'))
    for (const name of ['z', '10', '2', 'Z']) files.writeText(at(`a/${name}`), name)
    expect(files.list(at('a'))).toEqual(['10', '2', 'Z', 'b', 'z'])
    files.rename(at('a'), at('d'))
    expect(files.realPath(at('d/../d/z'))).toBe(at('d/z'))
    files.syncFolder(at('d'))
    files.remove(at('d'))
    files.remove(at('d'))
    expect(files.list(folder)).toEqual([])
  })

  it('removing a link leaves what it leads to', () => {
    files.makeFolder(at('kept'))
    files.writeText(at('kept/x'), 'x')
    fs.symlinkSync(at('kept'), at('link'))
    files.remove(at('link'))
    expect(files.list(at('kept'))).toEqual(['x'])
  })
})

describe('text', () => {
  it('comes back; a file that was there is replaced whole, and nothing is left beside it', () => {
    files.writeText(at('x'), 'a long text, é世😀\n')
    files.writeText(at('x'), 'short')
    expect(files.readText(at('x'), 5)).toBe('short')
    expect(files.list(folder)).toEqual(['x'])
  })

  it('a failed write leaves the old text and nothing beside it', () => {
    files.makeFolder(at('x'))
    expect(refusal(() => files.writeText(at('x'), 'new')).message).toMatch(/x: cannot be written: it is not a regular/)
    expect(refusal(() => files.writeText(at('gone/x'), 'new')).message).toMatch(/no such file or folder/)
    expect(files.list(folder)).toEqual(['x'])
  })

  it('too long, not UTF-8', () => {
    fs.writeFileSync(at('x'), Uint8Array.of(0x61, 0xff))
    expect(refusal(() => files.readText(at('x'), 1)).message).toBe(`${at('x')}: is 2 bytes long; at most 1 are read`)
    expect(refusal(() => files.readText(at('x'), 2)).message).toBe(`${at('x')}: is not UTF-8 text`)
  })
})

describe('refusals', () => {
  it.each<[string, () => unknown, RegExp]>([
    ['missing', () => files.open(at('y'), 'read'), /y: cannot be read: no such file or folder \(ENOENT\)$/],
    ['missing above', () => files.open(at('y/z'), 'create'), /z: cannot be written: no such file or folder/],
    ['there already', () => files.open(at('x'), 'create'), /x: cannot be written: it exists already/],
    ['a folder as a file', () => files.open(folder, 'read'), /cannot be read: it is not a regular file/],
    ['a folder written', () => files.open(folder, 'update'), /it is a folder/],
    ['a device', () => files.open('/dev/zero', 'read'), /not a regular file/],
    ['a file as a folder', () => files.list(at('x')), /not a folder/],
    ['a name too long', () => files.open(at('a'.repeat(300)), 'create'), /name is too long/],
    ['a NUL in a name', () => files.open(at('a\0b'), 'read'), /a\\u\{0\}b: cannot be read: a path cannot hold a NUL/],
    ['a NUL in a name, asked for', () => files.stat(at('a\0b')), /cannot hold a NUL/],
    ['control characters in a name', () => files.open(at('a\n\x1b[2J'), 'read'), /a\\u\{a\}\\u\{1b\}\[2J: /],
    ['a closed descriptor', () => files.readAt(9999, new Uint8Array(1), 0), /descriptor 9999: cannot be read/],
  ])('%s', (_, run, says) => {
    fs.writeFileSync(at('x'), '')
    const error = refusal(run)
    expect(error.code).toBe('bad-input')
    expect(error.message).toMatch(says)
    expect(error.message).not.toContain('\n')
  })

  it('a FIFO is refused without waiting', () => {
    execFileSync('mkfifo', [at('pipe')])
    expect(refusal(() => files.open(at('pipe'), 'read')).message).toMatch(/not a regular file/)
  })

  it.skipIf(!fs.existsSync('/dev/full'))('a full disk', () => {
    const descriptor = files.open('/dev/full', 'update')
    const error = refusal(() => files.writeAt(descriptor, new Uint8Array(1), 0))
    files.close(descriptor)
    expect(error.code).toBe('exhausted')
    expect(error.message).toMatch(/^\/dev\/full: cannot be written: the disk is full; free some space/)
  })

  it.each<[string, 'read' | 'written', ErrorCode]>([
    ['ENOSPC', 'written', 'exhausted'],
    ['EDQUOT', 'written', 'exhausted'],
    ['EFBIG', 'written', 'exhausted'],
    ['EMFILE', 'read', 'exhausted'],
    ['EIO', 'written', 'exhausted'],
    ['EIO', 'read', 'bad-input'],
    ['EACCES', 'read', 'bad-input'],
    ['EACCES', 'written', 'bad-input'],
    ['EPERM', 'written', 'bad-input'],
    ['EROFS', 'written', 'bad-input'],
    ['ESOMETHING', 'read', 'bad-input'],
  ])('%s while %s is %s', (code, access, expected) => {
    const cause = Object.assign(new Error('x'), { code, syscall: 'x' })
    const error = refusal(() =>
      guarded('p', access, () => {
        throw cause
      }),
    )
    expect(error).toMatchObject({ code: expected, cause })
    expect(error.message).toMatch(new RegExp(`^p: cannot be ${access}: .*\\(${code}\\)$`))
  })

  it('what no system call threw stays as it is', () => {
    const bug = new TypeError('a bug')
    const run = () =>
      guarded('p', 'read', () => {
        throw bug
      })
    expect(run).toThrow(bug)
  })
})

it('printable: one line, and not endless', () => {
  expect(printable('model.layers.0 é世😀')).toBe('model.layers.0 é世😀')
  expect(printable('a\r\n\t\x7f\u0085\u2028\u202e\ud800')).toBe(
    'a\\u{d}\\u{a}\\u{9}\\u{7f}\\u{85}\\u{2028}\\u{202e}\\u{d800}',
  )
  expect(printable('x'.repeat(1e6)).length).toBeLessThan(400)
})

it('the clock does not go back; memory is in bytes', () => {
  const first = nodeClock.now()
  expect(nodeClock.now()).toBeGreaterThanOrEqual(first)
  expect(nodeClock.peakMemoryBytes()).toBeGreaterThanOrEqual(process.memoryUsage().rss / 2)
  expect(nodeClock.peakMemoryBytes()).toBeLessThan(2 ** 40)
})
