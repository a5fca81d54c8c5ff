import fc from 'fast-check'
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest'
import { fromFloat32, toFloat32 } from '../../../src/dtype/convert.ts'
import { allocateAll, freeAll } from '../../../src/engine/kernel/heap.ts'
import { columnBytes, panelRows } from '../../../src/engine/kernel/layout.ts'
import {
  type Chunk,
  forEachPanel,
  type Matrix,
  type PanelDtype,
  type PanelJob,
} from '../../../src/engine/kernel/panels.ts'
import { createKernels, type Kernels } from '../../../src/engine/kernel/pool.ts'
import { randomWeights, shuffled } from '../../helpers/linears.ts'

const pools = await Promise.all([1, 2, 4].map(createKernels))
const kernels = pools[1]
afterAll(() => Promise.all(pools.map(pool => pool.close())))

let held: readonly number[] = []
beforeEach(() => {
  held = pools.map(pool => pool.held())
})
afterEach(() =>
  expect(
    pools.map(pool => pool.held()),
    'shared memory held',
  ).toEqual(held),
)

const dtypes = ['F32', 'F16', 'BF16'] as const
const infinity = { F32: 0x7f800000, F16: 0x7c00, BF16: 0x7f80 }
const kernelOf = { F32: 'panelFromF32', F16: 'panelFromF16', BF16: 'panelFromBf16' } as const

/** Stored bits as bytes. */
const bytesOf = (bits: ArrayLike<number>, dtype: PanelDtype): Uint8Array =>
  new Uint8Array((dtype === 'F32' ? Uint32Array : Uint16Array).from(bits).buffer)

/** One panel from 48 stored rows of `cols` values: what the kernel returned, and the panel as rows in the order of positions. */
const panelOf = async (data: Uint8Array, dtype: PanelDtype, cols: number, positions: Int32Array) => {
  const regions = allocateAll(kernels, { source: data.length, panel: cols * columnBytes, place: 4 * cols })
  const { source, panel, place } = regions
  source.u8().set(data)
  place.u32().set(positions.map(position => position * columnBytes))
  const call = [kernelOf[dtype], source.address, panel.address, place.address, cols] as const
  const [broken] = await kernels.run([call])
  const values = panel.f32().slice()
  freeAll(regions)
  return { broken, at: (row: number, column: number) => values[positions[column] * panelRows + row] }
}

describe('a panel', () => {
  it.each(['F16', 'BF16'] as const)('has the value of every finite bit pattern of %s, at its place', async dtype => {
    const patterns = Array.from({ length: 65536 }, (_, bits) => bits).filter(
      bits => (bits & infinity[dtype]) !== infinity[dtype],
    )
    const cols = Math.ceil(patterns.length / panelRows)
    const data = bytesOf([...patterns, ...new Array(cols * panelRows - patterns.length).fill(0)], dtype)
    const expected = toFloat32(data, dtype)
    const { broken, at } = await panelOf(data, dtype, cols, shuffled(cols, 3))
    expect(broken).toBe(0)
    const found = expected.map((_, i) => at(Math.floor(i / cols), i % cols))
    expect(found).toEqual(expected)
  })

  it('has the float32 bits of F32, at their places, for any number of columns', async () => {
    for (const cols of [1, 2, 3, 4, 5, 7, 8, 9, 31]) {
      const W = randomWeights(panelRows, cols, cols)
      const { broken, at } = await panelOf(fromFloat32(W, 'F32'), 'F32', cols, shuffled(cols, 3))
      expect(broken).toBe(0)
      expect(W.map((_, i) => at(Math.floor(i / cols), i % cols))).toEqual(W)
    }
  })

  it.each(dtypes)('says when any value of %s is not finite, wherever it stands', async dtype => {
    const cols = 13
    const least = infinity[dtype]
    const most = dtype === 'F32' ? 0x7fffffff : 0x7fff
    const sign = most + 1
    const broken = fc.oneof(fc.constant(least), fc.integer({ min: least, max: most }))
    await fc.assert(
      fc.asyncProperty(broken, fc.boolean(), fc.nat(panelRows * cols - 1), async (bits, negative, index) => {
        const largestFinite = new Array<number>(panelRows * cols).fill(least - 1)
        largestFinite[index] = bits + (negative ? sign : 0)
        const natural = Int32Array.from({ length: cols }, (_, i) => i)
        expect((await panelOf(bytesOf(largestFinite, dtype), dtype, cols, natural)).broken).toBe(1)
      }),
    )
  })

  it('gives its codes back as rows in natural order', async () => {
    for (const cols of [1, 7, 8, 9, 16, 27]) {
      const positions = shuffled(cols, 5)
      const regions = allocateAll(kernels, { codes: cols * panelRows, rows: cols * panelRows, place: 4 * cols })
      const { codes, rows, place } = regions
      const inPanel = Uint8Array.from({ length: cols * panelRows }, (_, i) => (i * 37) % 251)
      codes.u8().set(inPanel)
      place.u32().set(positions.map(position => position * columnBytes))
      await kernels.run([['codesToRows', codes.address, rows.address, place.address, cols]])
      const expected = inPanel.map((_, i) => inPanel[positions[i % cols] * panelRows + Math.floor(i / cols)])
      expect(rows.u8()).toEqual(expected)
      freeAll(regions)
    }
  })
})

/** Lowest and highest value of each row, by a job over all panels. */
const rangesOf = async (pool: Kernels, matrix: Matrix, panelsPerChunk: number) => {
  const place = pool.allocate(4 * matrix.in)
  place.u32().set(Array.from({ length: matrix.in }, (_, column) => column * columnBytes))
  const found = { lows: new Float32Array(matrix.out), highs: new Float32Array(matrix.out) }
  const chunks: Chunk[] = []
  const job: PanelJob<'lows' | 'highs'> = {
    panelsPerChunk,
    place: place.address,
    regions: panels => ({ lows: panels * columnBytes, highs: panels * columnBytes }),
    calls: ({ panel, lows, highs }, i) => [
      ['panelRange', panel.address, matrix.in, lows.address + i * columnBytes, highs.address + i * columnBytes],
    ],
    collect({ lows, highs }, chunk) {
      chunks.push(chunk)
      found.lows.set(lows.f32().subarray(0, chunk.rows), chunk.firstRow)
      found.highs.set(highs.f32().subarray(0, chunk.rows), chunk.firstRow)
    },
  }
  try {
    await forEachPanel(pool, matrix, job)
  } finally {
    place.free()
  }
  return { found, chunks }
}

const matrixOf = (W: Float32Array, out: number, inputs: number, dtype: PanelDtype = 'F32'): Matrix => ({
  name: 'w',
  out,
  in: inputs,
  dtype,
  source: fromFloat32(W, dtype),
})

describe('a job over all panels', () => {
  const shapes = fc.record({
    out: fc.integer({ min: 1, max: 500 }),
    inputs: fc.integer({ min: 1, max: 20 }),
    panelsPerChunk: fc.integer({ min: 1, max: 4 }),
    dtype: fc.constantFrom(...dtypes),
    pool: fc.constantFrom(...pools),
  })

  it('sees every row once, whatever the chunks and threads', async () => {
    await fc.assert(
      fc.asyncProperty(shapes, async ({ out, inputs, panelsPerChunk, dtype, pool }) => {
        const matrix = matrixOf(randomWeights(out, inputs, out), out, inputs, dtype)
        const W = toFloat32(matrix.source as Uint8Array, dtype)
        const { found, chunks } = await rangesOf(pool, matrix, panelsPerChunk)
        const row = (i: number) => [0, ...W.subarray(i * inputs, (i + 1) * inputs)]
        expect(found.lows).toEqual(found.lows.map((_, i) => Math.min(...row(i))))
        expect(found.highs).toEqual(found.highs.map((_, i) => Math.max(...row(i))))
        expect(chunks.reduce((sum, { rows }) => sum + rows, 0)).toBe(out)
      }),
      { numRuns: 40 },
    )
  })

  it('reads each byte once', async () => {
    const [out, inputs] = [300, 8]
    const reads: [number, number][] = []
    const source = (start: number, end: number, into: Uint8Array) => {
      reads.push([start, end])
      into.fill(0)
    }
    await rangesOf(kernels, { ...matrixOf(new Float32Array(1), out, inputs), source }, 2)
    reads.sort(([a], [b]) => a - b)
    expect(reads.map(([start]) => start)).toEqual([0, ...reads.slice(0, -1).map(([, end]) => end)])
    expect(reads.at(-1)![1]).toBe(4 * out * inputs)
  })

  it('names the first value that is not finite, whatever the chunks and threads', async () => {
    const [out, inputs] = [500, 6]
    const broken = [
      [499, 0, Number.NaN, 'NaN'],
      [130, 5, Number.NEGATIVE_INFINITY, 'infinite'],
      [130, 2, Number.NaN, 'NaN'],
      [97, 4, Number.POSITIVE_INFINITY, 'infinite'],
    ] as const
    const W = randomWeights(out, inputs, 3)
    for (const [row, column, value, word] of broken) {
      W[row * inputs + column] = value
      for (const dtype of dtypes)
        for (const pool of pools)
          for (const panelsPerChunk of [1, 3]) {
            const refusal = {
              code: 'bad-input',
              message: expect.stringContaining(`w: row ${row}, column ${column} is ${word};`),
            }
            await expect(rangesOf(pool, matrixOf(W, out, inputs, dtype), panelsPerChunk)).rejects.toThrow(
              expect.objectContaining(refusal),
            )
          }
    }
  })

  it('holds no more memory than one chunk for each thread and one to read', async () => {
    const [out, inputs, panelsPerChunk] = [48 * 40, 64, 2]
    let most = 0
    const source = (_start: number, _end: number, into: Uint8Array) => {
      most = Math.max(most, kernels.held())
      into.fill(0)
    }
    const before = kernels.held()
    await rangesOf(kernels, { ...matrixOf(new Float32Array(1), out, inputs), source }, panelsPerChunk)
    const chunk = (panelsPerChunk + 1) * inputs * columnBytes + 2 * panelsPerChunk * columnBytes
    expect(most - before).toBeLessThanOrEqual((kernels.threads + 1) * chunk + 4 * inputs)
  })
})

describe('a job that fails', () => {
  const [out, inputs] = [500, 6]
  const W = randomWeights(out, inputs, 3)
  const good = matrixOf(W, out, inputs)
  const unreadable: Matrix = {
    ...good,
    source: (start, _end, into) => {
      if (start > 1000) throw new Error('the file ends early')
      into.fill(0)
    },
  }

  it('because its rows cannot be read says so', async () => {
    for (const pool of pools) await expect(rangesOf(pool, unreadable, 1)).rejects.toThrow('the file ends early')
  })

  it('in a worker says so', async () => {
    const job: PanelJob<never> = {
      panelsPerChunk: 1,
      place: 0,
      regions: () => ({}),
      calls: () => [['panelRange', 2 ** 31, inputs, 0, 0]],
      collect: () => {},
    }
    for (const pool of pools) await expect(forEachPanel(pool, good, job)).rejects.toThrow(/out of bounds/)
  })

  it('gives its memory back each time, as one that succeeds does', async () => {
    const memoryBytes = () => {
      const region = kernels.allocate(1)
      const { byteLength } = region.u8().buffer
      region.free()
      return byteLength
    }
    const { found } = await rangesOf(kernels, good, 2)
    const before = memoryBytes()
    for (let i = 0; i < 50; i++) {
      await expect(rangesOf(kernels, unreadable, 2)).rejects.toThrow()
      expect((await rangesOf(kernels, good, 2)).found).toEqual(found)
      expect(kernels.held()).toBe(held[1])
    }
    expect(memoryBytes()).toBe(before)
  })
})
