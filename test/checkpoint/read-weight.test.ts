import fs from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.ts'
import { readWeight, viewShape } from '../../src/checkpoint/read-weight.ts'
import { createShardWriter, planShards } from '../../src/checkpoint/write-safetensors.ts'
import type { TensorInfo, WeightView } from '../../src/contracts.ts'
import { fromFloat32 } from '../../src/dtype/convert.ts'
import { dtypeBits } from '../../src/dtype/dtype.ts'
import { nodeFiles } from '../../src/io/files.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'
import { refusal } from './support.ts'

const root = temporaryFolder()
let count = 0

type Stored = 'F32' | 'F16' | 'BF16'

/** A checkpoint whose tensors hold 0, 1, 2 … (exact in each dtype up to 256). */
const checkpointOf = (tensors: Readonly<Record<string, readonly [Stored, readonly number[]]>>) => {
  const infos: TensorInfo[] = Object.entries(tensors).map(([name, [dtype, shape]]) => {
    const elements = shape.reduce((a, b) => a * b, 1)
    return { name, dtype, shape, bytes: (elements * dtypeBits[dtype]) / 8 }
  })
  const folder = join(root, String(count++))
  fs.mkdirSync(folder)
  const writer = createShardWriter(folder, planShards(infos, 1e9), nodeFiles)
  for (const [name, [dtype, shape]] of Object.entries(tensors))
    writer.write(
      name,
      fromFloat32(
        Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => i),
        dtype,
      ),
    )
  writer.finish()
  writer.close()
  return openCheckpoint(folder, nodeFiles)
}

describe('readWeight', () => {
  it('rows and transpose, of any matrix and dtype', () => {
    fc.assert(
      fc.property(
        fc.constantFrom<Stored>('F32', 'F16', 'BF16'),
        fc.nat(15),
        fc.nat(16),
        fc.tuple(fc.nat(15), fc.nat(15)),
        fc.boolean(),
        fc.boolean(),
        (dtype, rows, cols, ends, transpose, all) => {
          const checkpoint = checkpointOf({ w: [dtype, [rows, cols]] })
          const range = ends.map(end => Math.min(end, rows)).sort((a, b) => a - b) as [number, number]
          const view: WeightView = { tensor: 'w', transpose, ...(all ? {} : { rows: range }) }
          const [start, end] = all ? [0, rows] : range
          const taken = Array.from({ length: end - start }, (_, r) =>
            Array.from({ length: cols }, (_, c) => (start + r) * cols + c),
          )
          const expected = transpose ? Array.from({ length: cols }, (_, c) => taken.map(row => row[c])) : taken
          const { data, shape } = readWeight(checkpoint, view)
          checkpoint.close()
          expect(shape).toEqual(transpose ? [cols, end - start] : [end - start, cols])
          expect(viewShape(checkpoint.tensors, view)).toEqual(shape)
          expect([...data]).toEqual(expected.flat())
        },
      ),
      { numRuns: 100 },
    )
  })

  it('one, three and no dimensions', () => {
    const checkpoint = checkpointOf({ v: ['BF16', [5]], e: ['F16', [3, 2, 2]], s: ['F32', []] })
    expect(readWeight(checkpoint, { tensor: 'v', rows: [1, 3] })).toEqual({ data: Float32Array.of(1, 2), shape: [2] })
    const expert = readWeight(checkpoint, { tensor: 'e', rows: [1, 2] })
    expect(expert).toEqual({ data: Float32Array.of(4, 5, 6, 7), shape: [1, 2, 2] })
    expect(readWeight(checkpoint, { tensor: 's' })).toEqual({ data: Float32Array.of(0), shape: [] })
    checkpoint.close()
  })

  it('into a given place, plain and transposed', () => {
    const checkpoint = checkpointOf({ w: ['F16', [2, 3]] })
    const place = new Float32Array(new SharedArrayBuffer(24))
    expect(readWeight(checkpoint, { tensor: 'w' }, place).data).toBe(place)
    expect([...place]).toEqual([0, 1, 2, 3, 4, 5])
    readWeight(checkpoint, { tensor: 'w', transpose: true }, place)
    expect([...place]).toEqual([0, 3, 1, 4, 2, 5])
    expect(() => readWeight(checkpoint, { tensor: 'w' }, new Float32Array(5))).toThrow(RangeError)
    checkpoint.close()
  })

  it('more than one piece of 16 MiB', () => {
    const rows = 4500
    const cols = 2048
    const path = join(root, 'large.safetensors')
    const header = `{"w":{"dtype":"BF16","shape":[${rows},${cols}],"data_offsets":[0,${rows * cols * 2}]}}`
    const length = Buffer.alloc(8)
    length.writeBigUInt64LE(BigInt(header.length))
    const values = Uint16Array.from({ length: rows * cols }, (_, i) => (i * 31) & 0x7f7f)
    fs.writeFileSync(path, Buffer.concat([length, Buffer.from(header), Buffer.from(values.buffer)]))
    const checkpoint = openCheckpoint(path, nodeFiles)
    const { data } = readWeight(checkpoint, { tensor: 'w' })
    checkpoint.close()
    const bits = new Uint32Array(data.buffer)
    expect(bits.findIndex((word, i) => word !== values[i] << 16)).toBe(-1)
  })

  it.each<[WeightView, Parameters<typeof refusal>[1], RegExp]>([
    [{ tensor: 'x' }, 'bad-input', /tensor "x" is missing/],
    [{ tensor: 'w', rows: [0, 3] }, 'bad-input', /tensor "w" \[2,3\]: rows: the range ends at 3, beyond 2/],
    [{ tensor: 'w', rows: [2, 1] }, 'bad-input', /before it begins/],
    [{ tensor: 'w', rows: [0.5, 1] }, 'bad-input', /not an integer/],
    [{ tensor: 's', rows: [0, 1] }, 'bad-input', /beyond 0/],
    [{ tensor: 'v', transpose: true }, 'bad-input', /only a matrix/],
  ])('%j is refused', (view, code, says) => {
    const checkpoint = checkpointOf({ w: ['F32', [2, 3]], v: ['F32', [2]], s: ['F32', []] })
    expect(refusal(() => readWeight(checkpoint, view), code)).toMatch(says)
    expect(refusal(() => viewShape(checkpoint.tensors, view), code)).toMatch(says)
    checkpoint.close()
  })

  it('a dtype that is no float', () => {
    const path = join(root, 'int.safetensors')
    const header = '{"w":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}'
    fs.writeFileSync(path, Buffer.concat([Buffer.of(header.length, 0, 0, 0, 0, 0, 0, 0), Buffer.from(`${header}xx`)]))
    const checkpoint = openCheckpoint(path, nodeFiles)
    expect(refusal(() => readWeight(checkpoint, { tensor: 'w' }), 'unsupported')).toMatch(
      /int\.safetensors: tensor "w" is I8/,
    )
    checkpoint.close()
  })
})
