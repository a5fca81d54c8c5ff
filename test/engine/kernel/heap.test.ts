import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { allocateAll, createHeap, freeAll, maxPages, type Region } from '../../../src/engine/kernel/heap.ts'

const pageBytes = 65536

/** A heap over a memory of its own. */
const heapOf = (maximum = maxPages) => {
  const memory = new WebAssembly.Memory({ initial: 1, maximum, shared: true })
  return { memory, heap: createHeap(memory) }
}

const exhausted = expect.objectContaining({ code: 'exhausted' })

describe('a heap', () => {
  /** Sizes to allocate, and which of the regions held to free instead. */
  const steps = fc.array(fc.oneof(fc.nat(200_000), fc.record({ free: fc.nat() })), { maxLength: 60 })

  it('gives regions that never overlap, aligned, inside the memory, and keeps what is written into them', () => {
    fc.assert(
      fc.property(steps, todo => {
        const { memory, heap } = heapOf()
        const regions: Region[] = []
        for (const [i, step] of todo.entries()) {
          if (typeof step === 'number') {
            const region = heap.allocate(step)
            region.u8().fill(i)
            regions.push(region)
          } else if (regions.length > 0) {
            const [{ free, u8 }] = regions.splice(step.free % regions.length, 1)
            expect(new Set(u8()).size).toBeLessThanOrEqual(1)
            free()
          }
        }
        const byAddress = regions.toSorted((a, b) => a.address - b.address)
        for (const [i, { address, bytes }] of byAddress.entries()) {
          expect(address % 64).toBe(0)
          expect(address).toBeGreaterThanOrEqual(pageBytes)
          expect(address + bytes).toBeLessThanOrEqual(byAddress[i + 1]?.address ?? memory.buffer.byteLength)
        }
        expect(heap.held()).toBe(regions.reduce((sum, { bytes }) => sum + 64 * Math.max(1, Math.ceil(bytes / 64)), 0))
        freeAll(Object.fromEntries(regions.entries()))
        expect(heap.held()).toBe(0)
      }),
      { numRuns: 50 },
    )
  })

  it('uses again what was freed', () => {
    const { memory, heap } = heapOf()
    const [first] = [heap.allocate(3e6), heap.allocate(3e6)]
    const size = memory.buffer.byteLength
    for (let i = 0; i < 50; i++) {
      first.free()
      const again = heap.allocate(3e6)
      expect(again.address).toBe(first.address)
      again.free()
      heap.allocate(2e6).free()
    }
    expect(memory.buffer.byteLength).toBe(size)
  })

  it('takes a region back once', () => {
    const { heap } = heapOf()
    const first = heap.allocate(64)
    first.free()
    const second = heap.allocate(64)
    first.free()
    expect(heap.held()).toBe(64)
    expect(heap.allocate(64).address).not.toBe(second.address)
  })

  it('shows a region as any element type', () => {
    const { heap } = heapOf()
    const region = heap.allocate(16)
    region.f64().set([1, 2])
    expect([...region.u32()]).toEqual([0, 0x3ff00000, 0, 0x40000000])
    expect([...region.f32()]).toEqual([0, 1.875, 0, 2])
    expect(region.u8()[15]).toBe(0x40)
  })

  it('sees through views made after it grew', () => {
    const { heap } = heapOf()
    const region = heap.allocate(8)
    region.f64()[0] = Math.PI
    heap.allocate(50 * pageBytes)
    expect(region.f64()[0]).toBe(Math.PI)
  })

  it('refuses what the memory cannot hold, and still works', () => {
    const { heap } = heapOf(10)
    const all = heap.allocate(9 * pageBytes)
    expect(() => heap.allocate(1)).toThrow(exhausted)
    all.free()
    expect(() => heap.allocate(10 * pageBytes)).toThrow(exhausted)
    expect(heap.held()).toBe(0)
    expect(heap.allocate(9 * pageBytes).address).toBe(all.address)
  })

  it('never reaches the last page of 4 GiB, whose end a kernel would take for address 0', () => {
    const { memory, heap } = heapOf()
    for (const bytes of [2 ** 32 - 2 * pageBytes + 1, 2 ** 32, 2 ** 40, Number.POSITIVE_INFINITY])
      expect(() => heap.allocate(bytes)).toThrow(exhausted)
    expect(memory.buffer.byteLength).toBe(pageBytes)
  })
})

describe('several regions at once', () => {
  it('are named, and freed together', () => {
    const { heap } = heapOf()
    const { a, b } = allocateAll(heap, { a: 100, b: 10 })
    expect([a.bytes, b.bytes, heap.held()]).toEqual([100, 10, 192])
    freeAll({ a, b })
    expect(heap.held()).toBe(0)
  })

  it('are all or none', () => {
    const { heap } = heapOf(10)
    expect(() => allocateAll(heap, { a: pageBytes, b: pageBytes, c: 9 * pageBytes })).toThrow(exhausted)
    expect(heap.held()).toBe(0)
  })
})
