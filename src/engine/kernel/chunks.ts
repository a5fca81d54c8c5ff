import { allocateAll, freeAll, type Region } from './heap.ts'
import type { Kernels } from './pool.ts'

/**
 * Runs `work` over chunks, threads + 1 at a time, each with regions of its own: the calling thread reads the next chunk while the workers
 * compute. Which worker takes which chunk must change no result.
 * @param sizes bytes of each region
 * @throws what `work` threw for the first of the chunks that failed; QuantizeError exhausted
 */
export const forEachChunk = async <Name extends string, Chunk>(
  kernels: Kernels,
  chunks: readonly Chunk[],
  sizes: Readonly<Record<Name, number>>,
  work: (regions: Readonly<Record<Name, Region>>, chunk: Chunk) => Promise<void>,
): Promise<void> => {
  const failures = new Map<number, unknown>()
  let next = 0
  const lane = async (regions: Record<Name, Region>): Promise<void> => {
    while (next < chunks.length && failures.size === 0) {
      const index = next++
      await work(regions, chunks[index]).catch(error => failures.set(index, error))
    }
  }
  const slots: Record<Name, Region>[] = []
  try {
    while (slots.length < Math.min(kernels.threads + 1, chunks.length)) slots.push(allocateAll(kernels, sizes))
    await Promise.all(slots.map(lane))
  } finally {
    for (const regions of slots) freeAll(regions)
  }
  if (failures.size > 0) throw failures.get(Math.min(...failures.keys()))
}
