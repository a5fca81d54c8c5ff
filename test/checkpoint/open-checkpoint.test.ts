import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { join } from 'node:path'
import { beforeEach, describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.ts'
import { type Files, nodeFiles } from '../../src/io/files.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'
import { fileBytes, openDescriptors, refusal } from './support.ts'

const root = temporaryFolder()
let folder = root
let count = 0
beforeEach(() => {
  folder = join(root, String(count++), 'model')
  fs.mkdirSync(folder, { recursive: true })
})

const u8 = (name: string, begin: number, end: number) =>
  `"${name}":{"dtype":"U8","shape":[${end - begin}],"data_offsets":[${begin},${end}]}`

/** A file with tensors of U8 values, each filled with its own bytes. */
const put = (name: string, tensors: Readonly<Record<string, readonly number[]>>): string => {
  let end = 0
  const entries = Object.entries(tensors).map(([tensor, values]) => {
    end += values.length
    return u8(tensor, end - values.length, end)
  })
  const path = join(folder, name)
  fs.writeFileSync(path, fileBytes(`{${entries}}`, Uint8Array.from(Object.values(tensors).flat())))
  return path
}

const putIndex = (map: unknown, name = 'model.safetensors.index.json') =>
  fs.writeFileSync(join(folder, name), JSON.stringify({ metadata: { total_size: 0 }, weight_map: map }))

const open = (path = folder, files = nodeFiles) => openCheckpoint(path, files)
const refused = (path = folder, code: Parameters<typeof refusal>[1] = 'bad-input') => refusal(() => open(path), code)

const shard = (i: number, of = 2) => `model-0000${i}-of-0000${of}.safetensors`
const putShards = () => {
  put(shard(1), { b: [1, 2], a: [3] })
  put(shard(2), { c: [4, 5, 6] })
  putIndex({ a: shard(1), b: shard(1), c: shard(2) })
}

describe('what is opened', () => {
  it('a file, named', () => {
    const path = put('other.safetensors', { a: [1, 2, 3] })
    const checkpoint = open(path)
    expect(checkpoint).toMatchObject({ path, folder, files: ['other.safetensors'], metadata: {} })
    expect(checkpoint.tensors.get('a')).toMatchObject({ name: 'a', dtype: 'U8', shape: [3], bytes: 3, file: path })
    expect([...checkpoint.tensors.get('a')!.read()]).toEqual([1, 2, 3])
    checkpoint.close()
  })

  it('a folder with model.safetensors, whatever else is there', () => {
    put('model.safetensors', { a: [1] })
    put('zzz.safetensors', { b: [1] })
    putIndex({ c: 'nowhere.safetensors' })
    expect(open().files).toEqual(['model.safetensors'])
  })

  it('a folder with one other weight file', () => {
    put('weights.safetensors', { a: [1] })
    expect(open().files).toEqual(['weights.safetensors'])
  })

  it.each(['', 'model.safetensors.index.json'])('shards by their index (%s)', name => {
    putShards()
    put('consolidated.safetensors', { stray: [1] })
    const checkpoint = open(join(folder, name))
    expect(checkpoint.files).toEqual([shard(1), shard(2)])
    expect([...checkpoint.tensors.keys()]).toEqual(['b', 'a', 'c'])
    expect([...checkpoint.tensors.values()].map(tensor => [...tensor.read()])).toEqual([[1, 2], [3], [4, 5, 6]])
  })

  it('names that objects have, in the index and the shards', () => {
    put(shard(1), { ['__proto__']: [7], constructor: [8] })
    fs.writeFileSync(
      join(folder, 'model.safetensors.index.json'),
      `{"weight_map":{"__proto__":"${shard(1)}","constructor":"${shard(1)}"}}`,
    )
    expect([...open().tensors.keys()]).toEqual(['__proto__', 'constructor'])
  })

  it('a snapshot of the Hub cache, whose files are links into blobs/', () => {
    const cache = join(root, 'cache')
    const snapshot = join(cache, 'snapshots', 'abc')
    fs.mkdirSync(snapshot, { recursive: true })
    fs.mkdirSync(join(cache, 'blobs'))
    fs.writeFileSync(join(cache, 'blobs', 'f00'), fileBytes(`{${u8('a', 0, 2)}}`, Uint8Array.of(8, 9)))
    fs.symlinkSync('../../blobs/f00', join(snapshot, shard(1, 1)))
    fs.writeFileSync(join(snapshot, 'model.safetensors.index.json'), `{"weight_map":{"a":"${shard(1, 1)}"}}`)
    expect([...open(snapshot).tensors.get('a')!.read()]).toEqual([8, 9])
  })

  it('metadata of the first file', () => {
    fs.writeFileSync(join(folder, 'model.safetensors'), fileBytes('{"__metadata__":{"format":"pt","__proto__":"x"}}'))
    expect(Object.entries(open().metadata)).toEqual([
      ['format', 'pt'],
      ['__proto__', 'x'],
    ])
  })
})

describe('reads', () => {
  const values = [10, 11, 12, 13, 14, 15]
  const tensor = (files = nodeFiles) =>
    open(put('model.safetensors', { first: [1], a: values }), files).tensors.get('a')!

  it('a range, also into a given place, also in shared memory', () => {
    expect([...tensor().read(2, 5)]).toEqual([12, 13, 14])
    const shared = new Uint8Array(new SharedArrayBuffer(8))
    expect(tensor().read(1, 6, shared.subarray(1, 6))).toBeInstanceOf(Uint8Array)
    expect([...shared]).toEqual([0, 11, 12, 13, 14, 15, 0, 0])
  })

  it('only what is asked for', () => {
    const reads: [number, number][] = []
    const counting: Files = {
      ...nodeFiles,
      readAt(descriptor, into, position) {
        reads.push([position, into.byteLength])
        return nodeFiles.readAt(descriptor, into, position)
      },
    }
    const source = tensor(counting)
    const headerBytes = reads.reduce((end, [position, bytes]) => Math.max(end, position + bytes), 0)
    reads.length = 0
    source.read(4, 6)
    expect(reads).toEqual([[headerBytes + 1 + 4, 2]])
  })

  it.each([
    [-1, 2],
    [0, 7],
    [3, 2],
    [0.5, 2],
  ])('never outside of the tensor: %d to %d', (start, end) => {
    expect(() => tensor().read(start, end)).toThrow(RangeError)
  })

  it('a place of another length is refused', () => {
    expect(() => tensor().read(0, 4, new Uint8Array(5))).toThrow(RangeError)
  })

  it('a file that is cut while it is open ends in an error with tensor and byte', () => {
    const source = tensor()
    fs.truncateSync(source.file, fs.statSync(source.file).size - 2)
    const message = refusal(() => source.read())
    expect(message).toContain(`${source.file}: ended at byte ${fs.statSync(source.file).size}, inside tensor "a"`)
    expect([...source.read(0, 4)]).toEqual([10, 11, 12, 13])
  })

  it('nothing is read after close', () => {
    const checkpoint = open(put('model.safetensors', { a: values }))
    checkpoint.close()
    checkpoint.close()
    expect(() => checkpoint.tensors.get('a')!.read()).toThrow(/closed/)
  })
})

/** Anything as the folder's model.safetensors. */
const putRaw = (content: string | Uint8Array): string => {
  fs.writeFileSync(join(folder, 'model.safetensors'), content)
  return folder
}

const makeTwo = (): string => {
  put('a.safetensors', { a: [] })
  put('b.safetensors', {})
  return folder
}

const makeFolder = (name: string): string => {
  fs.rmSync(join(folder, name), { force: true })
  fs.mkdirSync(join(folder, name))
  return folder
}

const makeShards = (): string => {
  putShards()
  return join(folder, shard(2))
}

describe('refused', () => {
  it.each<[string, () => string, RegExp]>([
    ['nothing there', () => join(folder, 'gone.safetensors'), /no such file or folder/],
    ['an empty folder', () => folder, /holds no \.safetensors file/],
    ['a file of another kind', () => put('config.json', {}), /neither a \.safetensors file/],
    ['an empty file', () => putRaw(''), /is 0 bytes long, too short/],
    ['7 bytes', () => putRaw('1234567'), /is 7 bytes long, too short/],
    ['header longer than the file', () => putRaw(fileBytes('{}', 0, 3n)), /cut off: its header of 3 bytes/],
    ['header over 100 MB', () => putRaw(fileBytes('{}', 0, 100_000_001n)), /header of 100000001 bytes; the limit/],
    ['header of 2^64 - 1', () => putRaw(fileBytes('{}', 0, 2n ** 64n - 1n)), /header of 18446744073709551615 bytes/],
    ['a Git LFS pointer', () => putRaw('version https://git-lfs'), /git lfs pull/],
    ['two weight files, no index', makeTwo, /holds 2 \.safetensors files.*a\.safetensors, b\.safetensors/],
    ['a folder by the name of a file', () => makeFolder('model.safetensors'), /not a regular file/],
    ['one shard of several', makeShards, /one shard of the model; name its folder/],
  ])('%s', (_, make, says) => {
    expect(refused(make())).toMatch(says)
  })

  it.each([
    ['pytorch_model.bin', /pickle.*safetensors/],
    ['model.PT', /pickle/],
  ])('%s, named or found in the folder', (name, says) => {
    expect(refused(put(name, {}), 'unsupported')).toMatch(says)
    expect(refused(folder, 'unsupported')).toMatch(says)
  })

  it('a FIFO, without waiting for it', () => {
    const path = join(folder, 'model.safetensors')
    execFileSync('mkfifo', [path])
    expect(refused()).toMatch(/not a regular file/)
    expect(refused(path)).toMatch(/not a regular file/)
  })

  it('a device', () => {
    expect(refused('/dev/zero')).toMatch(/not a regular file/)
  })
})

describe('refused by the index', () => {
  it.each<[string, string]>([
    ['a folder above', '../outside.safetensors'],
    ['an absolute path', '/etc/outside.safetensors'],
    ['a folder below', 'sub/model.safetensors'],
    ['a Windows path', '..\\outside.safetensors'],
    ['a Windows drive', 'C:outside.safetensors'],
    ['a NUL', 'model\0.safetensors'],
    ['a newline', 'model\n.safetensors'],
    ['another kind of file', 'pytorch_model.bin'],
    ['dots', '..'],
    ['nothing', ''],
    ['only an extension', '.safetensors'],
  ])('%s', (_, name) => {
    putIndex({ a: name })
    expect(refused()).toMatch(/weight_map of "a" must be the plain name/)
  })

  it.each<[string, string, RegExp]>([
    ['no JSON', '{', /byte 1: expected a string/],
    ['no map', '{}', /no "weight_map" object/],
    ['a list', '{"weight_map":["a"]}', /byte 14: expected '\{'/],
    ['null', 'null', /byte 0: expected '\{'/],
    ['an empty map', '{"weight_map":{}}', /is empty/],
    ['a number', '{"weight_map":{"a":1}}', /byte 19: expected a string/],
    ['a tensor twice', '{"weight_map":{"a":"a.safetensors","a":"b.safetensors"}}', /tensor "a" is mapped twice/],
    ['two maps', '{"weight_map":{"a":"a.safetensors"},"weight_map":{}}', /weight_map is given twice/],
    ['deep JSON', `{"a":${'['.repeat(200_000)}`, /nested deeper than 64/],
    ['JSON deep in turns', `{"a":${'[{"a":'.repeat(100_000)}`, /nested deeper than 64/],
    ['a lone surrogate', '{"weight_map":{"\\ud800":"a.safetensors"}}', /a lone surrogate/],
    ['text after it', '{"weight_map":{"a":"a.safetensors"}} x', /more text after the end/],
    ['not UTF-8', '\xff', /UTF-8/],
  ])('%s', (_, text, says) => {
    fs.writeFileSync(join(folder, 'model.safetensors.index.json'), Buffer.from(text, 'latin1'))
    expect(refused()).toMatch(says)
  })

  it.each<[string, () => unknown, RegExp]>([
    [
      'a shard that is missing',
      () => fs.rmSync(join(folder, shard(2))),
      /00002-of.*no such file, though the model needs it/,
    ],
    ['a shard that is a folder', () => makeFolder(shard(2)), /not a regular file/],
    [
      'a tensor that is nowhere',
      () => putIndex({ a: shard(1), b: shard(1), c: shard(2), d: shard(2) }),
      /maps tensor "d".*does not hold it/,
    ],
    [
      'a tensor in another shard',
      () => putIndex({ a: shard(2), b: shard(1), c: shard(2) }),
      /maps tensor "a".*does not hold it/,
    ],
    ['a tensor not mapped', () => putIndex({ b: shard(1), c: shard(2) }), /holds tensor "a", which .* does not map/],
    ['a tensor in two shards', () => put(shard(2), { c: [4], a: [3] }), /tensor "a" is also in .*00001/],
    [
      'a broken shard',
      () => fs.appendFileSync(join(folder, shard(2)), 'x'),
      /00002-of-00002\.safetensors: has 1 bytes after/,
    ],
  ])('%s', (_, breakIt, says) => {
    putShards()
    breakIt()
    const before = openDescriptors()
    expect(refused()).toMatch(says)
    expect(openDescriptors()).toEqual(before)
  })

  it.each(['file', 'folder'])('a link out of the folder (%s)', kind => {
    putShards()
    const outside = join(folder, '..', 'outside.safetensors')
    fs.renameSync(join(folder, shard(2)), outside)
    fs.symlinkSync(kind === 'file' ? outside : join(folder, '..'), join(folder, shard(2)))
    expect(refused()).toMatch(kind === 'file' ? /a link out of its folder, to .*outside/ : /not a regular file/)
  })

  it('a link that goes in a circle, or to nothing', () => {
    putShards()
    fs.rmSync(join(folder, shard(2)))
    fs.symlinkSync('gone', join(folder, shard(2)))
    expect(refused()).toMatch(/no such file/)
    fs.rmSync(join(folder, shard(2)))
    fs.symlinkSync(shard(2), join(folder, shard(2)))
    expect(refused()).toMatch(/ELOOP/)
  })

  it('a shard that is a FIFO', () => {
    putShards()
    fs.rmSync(join(folder, shard(2)))
    execFileSync('mkfifo', [join(folder, shard(2))])
    expect(refused()).toMatch(/not a regular file/)
  })
})

describe('large', () => {
  /** A sparse file: `bytes` of zeros in one tensor, then `tail` in another; takes a page of disk. */
  const sparse = (bytes: number) => {
    const path = join(folder, 'model.safetensors')
    const header = fileBytes(`{${u8('big', 0, bytes)},${u8('tail', bytes, bytes + 3)}}`)
    fs.writeFileSync(path, header)
    fs.truncateSync(path, header.length + bytes + 3)
    const descriptor = fs.openSync(path, 'r+')
    fs.writeSync(descriptor, Uint8Array.of(7, 8, 9, 1, 2, 3), 0, 6, header.length + bytes - 3)
    fs.closeSync(descriptor)
    return open()
  }

  it('a tensor over 2 GiB in a file over 4 GiB: its ends, and a range over 2^32', () => {
    const bytes = 2 ** 32 + 2 ** 31 + 5
    const { tensors, close } = sparse(bytes)
    expect(tensors.get('big')!.bytes).toBe(bytes)
    expect([...tensors.get('big')!.read(bytes - 4)]).toEqual([0, 7, 8, 9])
    expect([...tensors.get('big')!.read(2 ** 32 - 2, 2 ** 32 + 2)]).toEqual([0, 0, 0, 0])
    expect([...tensors.get('tail')!.read()]).toEqual([1, 2, 3])
    close()
  })

  it('a tensor over 2 GiB, read whole, in pieces below 2 GiB', () => {
    const bytes = 2 ** 31 + 2 ** 20
    const pieces: [start: number, end: number][] = []
    let pretend = false // so that no 2 GiB are really read
    sparse(bytes).close()
    const { tensors, close } = open(folder, {
      ...nodeFiles,
      readAt(descriptor, into, position) {
        if (!pretend) return nodeFiles.readAt(descriptor, into, position)
        pieces.push([position, position + into.byteLength])
        return into.byteLength
      },
    })
    pretend = true
    const whole = tensors.get('big')!.read()
    close()
    expect(whole.byteLength).toBe(bytes)
    const tail = fs.statSync(join(folder, 'model.safetensors')).size - 3
    expect(pieces.map(([start]) => start)).toEqual([tail - bytes, ...pieces.slice(0, -1).map(([, end]) => end)])
    expect(pieces.at(-1)?.[1]).toBe(tail)
    expect(Math.max(...pieces.map(([start, end]) => end - start))).toBeLessThan(2 ** 31)
  })
})
