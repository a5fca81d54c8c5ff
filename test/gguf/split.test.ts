import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { openGguf } from '../../src/gguf/open-gguf.ts'
import { single } from '../../src/gguf/values.ts'
import { planGgufFiles } from '../../src/gguf/write-gguf.ts'
import { nodeFiles } from '../../src/io/files.ts'
import { refusal } from '../checkpoint/support.ts'
import { memoryFiles } from '../fuzz/memory-files.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'
import { ggufFile, info, type Parts, pair, text, u32 } from './raw.ts'
import { writeAll } from './write-all.ts'

const u16 = (value: number): Buffer => u32(value).subarray(0, 2)

interface Claims {
  readonly no?: number
  readonly count?: number
  readonly tensors?: number
}

/** Part `index` of three, each with one tensor. */
const part = (index: number, { no = index, count = 3, tensors = 3 }: Claims = {}, name = `t${index}`): Parts => ({
  keys: [
    ...(index === 0 ? [pair('general.name', 8, text('split'))] : []),
    pair('split.no', 2, u16(no)),
    pair('split.count', 2, u16(count)),
    pair('split.tensors.count', 5, u32(tensors)),
  ],
  infos: [info(name, [1], 0, 0)],
  data: Buffer.from([index, 0, 0, 0]),
})

const fileName = (index: number): string => `m/x-0000${index + 1}-of-00003.gguf`

const open = (parts: readonly Parts[], path = fileName(0)) => {
  const contents = Object.fromEntries(parts.map((item, index) => [fileName(index), new Uint8Array(ggufFile(item))]))
  const { files, open: descriptors } = memoryFiles(contents)
  try {
    const gguf = openGguf(path, files)
    const read = [...gguf.tensors.values()].map(source => [source.name, source.file, source.read()[0]])
    gguf.close()
    return { ...gguf, read }
  } finally {
    expect(descriptors()).toBe(0)
  }
}

const parts = [part(0), part(1), part(2)]

describe('a model in three files', () => {
  it('is opened by its first', () => {
    const { files, metadata, read } = open(parts)
    expect(files).toEqual([0, 1, 2].map(index => fileName(index).slice(2)))
    expect(metadata.has('general.name')).toBe(true)
    expect(read).toEqual([0, 1, 2].map(index => [`t${index}`, fileName(index), index]))
  })

  it.each<[string, readonly Parts[], RegExp]>([
    ['a part is missing', [part(0), part(1)], /x-00003-of-00003\.gguf: no such file/],
    ['a part says another number', [part(0), part(1, { no: 2 }), part(2)], /part 3 of 3, where part 2 of 3 must stand/],
    ['a part says another count', [part(0), part(1), part(2, { count: 4 })], /part 3 of 4, where part 3 of 3/],
    ['a part says nothing', [part(0), {}, part(2)], /00002-of-00003\.gguf: key "split\.no" is missing \(u16\)/],
    [
      'tensors are missing',
      [part(0, { tensors: 4 }), part(1), part(2)],
      /split\.tensors\.count is 4, but its 3 parts have 3/,
    ],
    ['a tensor comes twice', [part(0), part(1), part(2, {}, 't0')], /00003\.gguf: tensor "t0" is also in .*00001/],
  ])('is refused when %s', (_, given, message) => {
    expect(refusal(() => open(given))).toMatch(message)
  })

  it('is refused by another part, or under another name', () => {
    expect(refusal(() => open(parts, fileName(1)))).toMatch(/is part 2 of 3; name the first, x-00001-of-00003\.gguf/)
    const { files } = memoryFiles({ 'm/model.gguf': new Uint8Array(ggufFile(part(0))) })
    expect(refusal(() => openGguf('m/model.gguf', files))).toMatch(/is the first of 3 parts; its name must end in/)
  })
})

describe('planGgufFiles', () => {
  const tensors = ['a', 'b', 'c'].map(name => ({ name, type: 'F32', shape: [10] }) as const)
  const keys = new Map([['general.name', single('string', 'x')]])

  it('keeps one file where all fits', () => {
    const [plan, ...others] = planGgufFiles('m', keys, tensors, 120)
    expect([plan.file, others.length]).toEqual(['m.gguf', 0])
  })

  it('writes parts that open as one', () => {
    const folder = temporaryFolder()
    const plans = planGgufFiles('m', keys, tensors, 80)
    expect(plans.map(({ file }) => file)).toEqual(['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf'])
    for (const plan of plans) writeAll(folder, plan, name => Buffer.alloc(40, name))
    const { tensors: found, metadata, close } = openGguf(join(folder, plans[0].file), nodeFiles)
    expect([...found.values()].map(({ name, read }) => [name, Buffer.from(read()).toString()])).toEqual(
      tensors.map(({ name }) => [name, name.repeat(40)]),
    )
    expect(metadata.get('general.name')).toEqual(single('string', 'x'))
    close()
    expect(fs.readdirSync(folder)).toHaveLength(2)
  })
})
