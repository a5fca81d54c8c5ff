import fs from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.ts'
import { planFile } from '../../src/checkpoint/shard-plan.ts'
import { hashTensor } from '../../src/checkpoint/tensor-pieces.ts'
import { createShardWriter, planShards, publishFolder } from '../../src/checkpoint/write-safetensors.ts'
import type { TensorInfo } from '../../src/contracts.ts'
import { type Dtype, dtypeBits, dtypes } from '../../src/dtype/dtype.ts'
import { QuantizeError } from '../../src/errors.ts'
import { type Files, nodeFiles } from '../../src/io/files.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'
import { fileBytes, openDescriptors, refusal } from './support.ts'

const root = temporaryFolder()
let count = 0
const newFolder = (): string => {
  const folder = join(root, String(count++))
  fs.mkdirSync(folder)
  return folder
}

const info = (name: string, dtype: Dtype, shape: readonly number[]): TensorInfo => ({
  name,
  dtype,
  shape,
  bytes: (shape.reduce((a, b) => a * b, 1) * dtypeBits[dtype]) / 8,
})

const write = (folder: string, tensors: ReadonlyMap<TensorInfo, Uint8Array>, shardBytes: number): void => {
  const writer = createShardWriter(folder, planShards([...tensors.keys()], shardBytes), nodeFiles)
  for (const [{ name }, data] of tensors) writer.write(name, data)
  writer.finish()
  writer.close()
}

describe('goldens', () => {
  it('the example of the format, byte for byte', () => {
    const folder = newFolder()
    const tensors = new Map([
      [info('b.w', 'F16', [2]), Uint8Array.of(1, 2, 3, 4)],
      [info('a.w', 'I64', [1]), Uint8Array.of(5, 0, 0, 0, 0, 0, 0, 0)],
      [info('c', 'U8', [3]), Uint8Array.of(7, 8, 9)],
    ])
    write(folder, tensors, 1e9)
    const header =
      '{"__metadata__":{"format":"pt"},"a.w":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"b.w":{"dtype":"F16","shape":[2],"data_offsets":[8,12]},"c":{"dtype":"U8","shape":[3],"data_offsets":[12,15]}}   '
    const file = fs.readFileSync(join(folder, 'model.safetensors'))
    expect(file.length).toBe(223)
    expect([...file.subarray(0, 9)]).toEqual([0xc8, 0, 0, 0, 0, 0, 0, 0, 0x7b])
    expect(new Uint8Array(file)).toEqual(fileBytes(header, Uint8Array.of(5, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 7, 8, 9)))
    expect(fs.readdirSync(folder)).toEqual(['model.safetensors'])
  })

  it('an empty file', () => {
    expect(planFile('x', []).header).toEqual(new Uint8Array(Buffer.from('\x08\0\0\0\0\0\0\0{}      ')))
  })

  it('the order of the official writer, all dtypes; names by their UTF-8 bytes', () => {
    const tensors = dtypes.map(dtype => info(dtype, dtype, [4]))
    expect(planFile('x', tensors).tensors.map(({ name }) => name)).toEqual([...dtypes].reverse())
    const names = ['\u{1f600}', '\uffee', 'a10', 'a2', 'Z']
    const order = planFile(
      'x',
      names.map(name => info(name, 'U8', [1])),
    ).tensors
    expect(order.map(({ name }) => name)).toEqual(['Z', 'a10', 'a2', '\uffee', '\u{1f600}'])
  })

  it('the index of several shards', () => {
    const folder = newFolder()
    const tensors = ['c', 'a', 'b'].map(name => [info(name, 'U8', [4]), Uint8Array.of(1, 2, 3, 4)] as const)
    write(folder, new Map(tensors), 8)
    expect(JSON.parse(fs.readFileSync(join(folder, 'model.safetensors.index.json'), 'utf8'))).toEqual({
      metadata: { total_size: 12 },
      weight_map: {
        a: 'model-00001-of-00002.safetensors',
        b: 'model-00002-of-00002.safetensors',
        c: 'model-00001-of-00002.safetensors',
      },
    })
    expect(fs.readFileSync(join(folder, 'model.safetensors.index.json'), 'utf8')).toMatch(/"a".*"b".*"c"/s)
  })
})

describe('shards', () => {
  const layout = (sizes: readonly number[], shardBytes: number) =>
    planShards(
      sizes.map((size, i) => info(`t${i}`, 'U8', [size])),
      shardBytes,
    ).map(({ tensors }) => tensors.map(({ name }) => name).join(' '))

  it.each<[string, number[], number, string[]]>([
    ['all in one', [4, 4, 4], 12, ['t0 t1 t2']],
    ['one byte less', [4, 4, 4], 11, ['t0 t1', 't2']],
    ['a tensor larger than a shard', [4, 40, 4], 10, ['t0', 't1', 't2']],
    ['nothing', [], 10, ['']],
    ['no later tensor fills a gap', [6, 6, 2], 10, ['t0', 't1 t2']],
  ])('%s', (_, sizes, shardBytes, expected) => {
    expect(layout(sizes, shardBytes)).toEqual(expected)
  })

  it('names', () => {
    const plans = planShards([info('a', 'U8', [1]), info('b', 'U8', [1])], 1)
    expect(plans.map(({ file }) => file)).toEqual([
      'model-00001-of-00002.safetensors',
      'model-00002-of-00002.safetensors',
    ])
    expect(planShards([info('a', 'U8', [1])], 1).map(({ file }) => file)).toEqual(['model.safetensors'])
  })

  it('one name for two tensors, a reserved name, a wrong size', () => {
    const a = info('a', 'U8', [1])
    expect(refusal(() => planShards([a, info('a', 'F32', [1])], 9))).toMatch(/"a": the name comes twice/)
    expect(refusal(() => planShards([info('__metadata__', 'U8', [1])], 9))).toMatch(/reserved/)
    expect(() => planShards([{ ...a, bytes: 2 }], 9)).toThrow(RangeError)
  })
})

const arbitraryTensor = fc
  .record({
    name: fc.oneof(
      fc.string({ unit: 'binary', maxLength: 12 }),
      fc.constantFrom('__proto__', 'constructor', '1', '10', 'model.layers.0.w'),
    ),
    dtype: fc.constantFrom(...dtypes),
    shape: fc.array(fc.nat(5), { maxLength: 3 }),
  })
  .map(({ name, dtype, shape }) => info(name, dtype, dtypeBits[dtype] < 8 ? [...shape, 4] : shape))
  .filter(({ name }) => name !== '__metadata__')
const arbitraryTensors = fc.uniqueArray(arbitraryTensor, { selector: ({ name }) => name, maxLength: 12 })

/** Bytes that differ from tensor to tensor and place to place. */
const dataOf = ({ name, bytes }: TensorInfo): Uint8Array =>
  Uint8Array.from({ length: bytes }, (_, i) => (name.length * 31 + (name.codePointAt(0) ?? 0) + i * 7 + 1) & 255)

describe('round trip', () => {
  it('any set of tensors, any shard size, any order and size of pieces', () => {
    fc.assert(
      fc.property(arbitraryTensors, fc.integer({ min: 1, max: 400 }), fc.nat(), (tensors, shardBytes, seed) => {
        const folder = newFolder()
        const writer = createShardWriter(folder, planShards(tensors, shardBytes), nodeFiles)
        const step = 1 + (seed % 50)
        const pieces = tensors.flatMap(tensor => {
          const starts = Array.from({ length: Math.ceil(tensor.bytes / step) }, (_, i) => i * step)
          return starts.map(start => ({ tensor, start }))
        })
        for (const { tensor, start } of seed % 2 ? pieces.reverse() : pieces)
          writer.write(tensor.name, dataOf(tensor).subarray(start, start + step), start)
        for (const tensor of tensors) expect(writer.read(tensor.name).read()).toEqual(dataOf(tensor))
        writer.finish()
        for (const tensor of tensors) expect(writer.read(tensor.name).read()).toEqual(dataOf(tensor))
        writer.close()
        const checkpoint = tensors.length > 0 ? openCheckpoint(folder, nodeFiles) : undefined
        expect(new Set(checkpoint?.tensors.keys())).toEqual(new Set(tensors.map(({ name }) => name)))
        for (const tensor of tensors) {
          const source = checkpoint!.tensors.get(tensor.name)!
          expect(source).toMatchObject(tensor)
          expect(source.read()).toEqual(dataOf(tensor))
        }
        checkpoint?.close()
        fs.rmSync(folder, { recursive: true })
      }),
      { numRuns: 150 },
    )
  })

  it('every tensor is aligned to its own width', () => {
    fc.assert(
      fc.property(arbitraryTensors, tensors => {
        for (const { dtype, offset } of planFile('x', tensors).tensors)
          expect(offset % Math.max(1, dtypeBits[dtype] / 8)).toBe(0)
      }),
    )
  })
})

const plans = () => planShards([info('a', 'U8', [4]), info('b', 'F16', [3]), info('c', 'F32', [1])], 10)
const fill = (writer: ReturnType<typeof createShardWriter>): void => {
  for (const [name, bytes] of [
    ['a', 4],
    ['b', 6],
    ['c', 4],
  ] as const)
    writer.write(name, new Uint8Array(bytes).fill(1))
}

describe('misuse', () => {
  const writer = () => createShardWriter(newFolder(), plans(), nodeFiles)

  it.each<[string, number, number, RegExp]>([
    ['d', 0, 1, /no tensor "d"/],
    ['a', 1, 4, /do not fit the 4/],
    ['a', 5, 0, /do not fit the 4/],
    ['a', -1, 2, /do not fit the 4/],
  ])('writing %s at %d, %d bytes', (name, start, bytes, says) => {
    expect(() => writer().write(name, new Uint8Array(bytes), start)).toThrow(says)
  })

  it('finish tells the first byte that was never written', () => {
    const open = writer()
    fill(open)
    const holed = writer()
    holed.write('a', new Uint8Array(4))
    holed.write('c', new Uint8Array(4))
    holed.write('b', new Uint8Array(2))
    holed.write('b', new Uint8Array(2), 4)
    expect(() => holed.finish()).toThrow('byte 2 of b was never written')
    holed.write('b', new Uint8Array(3), 1)
    holed.finish()
    open.finish()
  })

  it('bytes that were not written are not read', () => {
    const open = writer()
    open.write('b', new Uint8Array(4))
    expect(open.read('b').read(0, 4)).toHaveLength(4)
    expect(() => open.read('b').read()).toThrow(/not all written/)
    expect(() => open.read('d')).toThrow(/no tensor/)
  })

  it('a link is not written through', () => {
    const folder = newFolder()
    const target = join(folder, 'target')
    fs.writeFileSync(target, 'old')
    fs.symlinkSync(target, join(folder, 'model-00002-of-00002.safetensors'))
    const before = openDescriptors()
    expect(refusal(() => createShardWriter(folder, plans(), nodeFiles))).toMatch(/00002.*symbolic link/)
    expect(fs.readFileSync(target, 'utf8')).toBe('old')
    expect(openDescriptors()).toEqual(before)
  })

  it('a tensor of an earlier run is taken over only with its own bytes', () => {
    const folder = newFolder()
    const first = createShardWriter(folder, plans(), nodeFiles)
    fill(first)
    const sums = ['a', 'b'].map(name => hashTensor(first.read(name)))
    first.sync()
    first.close()
    const again = createShardWriter(folder, plans(), nodeFiles)
    expect(() => again.read('a').read()).toThrow(/not all written/)
    expect(again.adopt('a', sums[1])).toBe(false)
    expect(() => again.finish()).toThrow(/never written/)
    for (const [i, name] of ['a', 'b'].entries()) expect(again.adopt(name, sums[i])).toBe(true)
    expect(again.read('b').read()).toEqual(new Uint8Array(6).fill(1))
    again.close()
  })

  it('after close nothing is written or read, and descriptors are free', () => {
    const before = openDescriptors()
    const open = writer()
    fill(open)
    const source = open.read('a')
    open.close()
    open.close()
    expect(openDescriptors()).toEqual(before)
    expect(() => open.write('a', new Uint8Array(1))).toThrow(/closed/)
    expect(() => source.read()).toThrow(/closed/)
    expect(() => open.finish()).toThrow(/closed/)
  })
})

/** Counts the calls, and fails the n-th with a full disk. */
const failing = (n: number): { readonly files: Files; readonly calls: string[] } => {
  const calls: string[] = []
  const files = Object.fromEntries(
    Object.entries(nodeFiles).map(([name, call]) => [
      name,
      (...args: unknown[]) => {
        calls.push(name)
        if (calls.length === n && name === 'close') (call as (...args: unknown[]) => unknown)(...args)
        if (calls.length === n) throw new QuantizeError('exhausted', `failed at ${name}`)
        return (call as (...args: unknown[]) => unknown)(...args)
      },
    ]),
  )
  return { files: files as unknown as Files, calls }
}

describe('failures', () => {
  const run = (files: Files, folder: string): void => {
    const partial = join(folder, 'out.partial')
    files.makeFolder(partial)
    const writer = createShardWriter(partial, plans(), files)
    try {
      fill(writer)
      writer.finish()
    } finally {
      writer.close()
    }
    publishFolder(partial, join(folder, 'out'), files)
  }

  it('of any call: the error comes out, nothing stays open, no half checkpoint has the final name', () => {
    const whole = failing(Number.POSITIVE_INFINITY)
    run(whole.files, newFolder())
    expect(whole.calls.filter(name => name === 'sync')).toHaveLength(2)
    for (let n = 1; n <= whole.calls.length; n++) {
      const folder = newFolder()
      const before = openDescriptors()
      expect(refusal(() => run(failing(n).files, folder), 'exhausted')).toMatch(/failed at/)
      expect(openDescriptors()).toEqual(before)
      const renamed = n > whole.calls.lastIndexOf('rename') + 1
      expect(fs.existsSync(join(folder, 'out'))).toBe(renamed)
    }
  })

  it('data is synced before the name: sync of files, of the folder, rename, sync of the folder above', () => {
    const { files, calls } = failing(Number.POSITIVE_INFINITY)
    run(files, newFolder())
    const order = calls.filter(name => ['writeAt', 'sync', 'rename', 'syncFolder', 'writeText'].includes(name))
    expect(order.slice(-7)).toEqual(['sync', 'sync', 'writeText', 'syncFolder', 'syncFolder', 'rename', 'syncFolder'])
    expect(order.lastIndexOf('writeAt')).toBeLessThan(order.indexOf('sync'))
  })

  it('a final name that is taken is not replaced', () => {
    const folder = newFolder()
    fs.mkdirSync(join(folder, 'out'))
    fs.writeFileSync(join(folder, 'out', 'mine'), '')
    expect(refusal(() => run(nodeFiles, folder))).toMatch(/out: cannot be written: .*(not empty|exists)/)
    expect(fs.readdirSync(join(folder, 'out'))).toEqual(['mine'])
  })
})
