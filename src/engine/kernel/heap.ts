import { QuantizeError } from '../../errors.ts'

const pageBytes = 65536
/** Largest 32-bit memory. */
export const maxPages = 65536
/** The last page is never used: an end address of exactly 4 GiB is 0 in the kernels. */
const limitBytes = (maxPages - 1) * pageBytes
/** The first page belongs to the compiler. */
const firstByte = pageBytes
/** Addresses start cache lines. */
const alignment = 64

/** Bytes of the shared memory that somebody holds. The views are of the present buffer: make them anew after another allocation. */
export interface Region {
  readonly address: number
  readonly bytes: number
  u8(): Uint8Array
  u32(): Uint32Array
  f32(): Float32Array
  f64(): Float64Array
  /** Gives the bytes back, in any order; the memory itself does not shrink. */
  free(): void
}

export interface Heap {
  /** @throws QuantizeError exhausted when the memory cannot hold it */
  allocate(bytes: number): Region
  /** Bytes held at present. */
  held(): number
}

interface Span {
  readonly start: number
  readonly end: number
}

const exhausted = (bytes: number, cause?: unknown): QuantizeError =>
  new QuantizeError(
    'exhausted',
    `out of memory: ${bytes} more bytes do not fit beside the kernels' other data (at most 4 GiB); use fewer --threads`,
    { cause },
  )

/** Where a span of `bytes` fits first, between those in use. */
const firstGap = (used: readonly Span[], bytes: number): { index: number; start: number } => {
  let start = firstByte
  for (const [index, span] of used.entries()) {
    if (start + bytes <= span.start) return { index, start }
    start = span.end
  }
  return { index: used.length, start }
}

/** First-fit allocation over one shared memory, which grows as needed. */
export const createHeap = (memory: WebAssembly.Memory): Heap => {
  const used: Span[] = []

  const reach = (end: number, bytes: number): void => {
    const missing = end - memory.buffer.byteLength
    if (end > limitBytes) throw exhausted(bytes)
    try {
      if (missing > 0) memory.grow(Math.ceil(missing / pageBytes))
    } catch (cause) {
      throw exhausted(bytes, cause)
    }
  }

  const regionOf = (span: Span, bytes: number): Region => ({
    address: span.start,
    bytes,
    u8: () => new Uint8Array(memory.buffer, span.start, bytes),
    u32: () => new Uint32Array(memory.buffer, span.start, bytes >>> 2),
    f32: () => new Float32Array(memory.buffer, span.start, bytes >>> 2),
    f64: () => new Float64Array(memory.buffer, span.start, bytes >>> 3),
    free: () => {
      const index = used.indexOf(span)
      if (index >= 0) used.splice(index, 1)
    },
  })

  return {
    allocate(bytes) {
      const rounded = Math.max(alignment, Math.ceil(bytes / alignment) * alignment)
      const { index, start } = firstGap(used, rounded)
      const span = { start, end: start + rounded }
      reach(span.end, bytes)
      used.splice(index, 0, span)
      return regionOf(span, bytes)
    },
    held: () => used.reduce((sum, { start, end }) => sum + end - start, 0),
  }
}

/** One region for each name. All or none: what was allocated is freed when one does not fit. */
export const allocateAll = <Name extends string>(
  heap: Pick<Heap, 'allocate'>,
  sizes: Readonly<Record<Name, number>>,
): Record<Name, Region> => {
  const regions: Partial<Record<Name, Region>> = {}
  try {
    for (const name of Object.keys(sizes) as Name[]) regions[name] = heap.allocate(sizes[name])
  } catch (error) {
    freeAll(regions)
    throw error
  }
  return regions as Record<Name, Region>
}

export const freeAll = (regions: Readonly<Partial<Record<string, Region>>>): void => {
  for (const region of Object.values(regions)) region?.free()
}
