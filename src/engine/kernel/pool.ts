import { readFileSync } from 'node:fs'
import { Tinypool } from 'tinypool'
import { packageFile } from '../../package-files.ts'
import { createHeap, type Heap, maxPages } from './heap.ts'
import type { KernelExports } from './kernels.d.ts'

/** One call of a kernel: its name and arguments. */
export type Call = {
  [Kernel in keyof KernelExports]: readonly [Kernel, ...Parameters<KernelExports[Kernel]>]
}[keyof KernelExports]

/** The bit-level kernels, on worker threads over one shared memory. */
export interface Kernels extends Heap {
  readonly threads: number
  /** Runs the calls one after the other on one worker; what each returned (undefined for none). Lists run side by side, up to `threads`. */
  run(calls: readonly Call[]): Promise<readonly (number | undefined)[]>
  /** Ends the workers. The process does not end before. */
  close(): Promise<void>
}

/**
 * Starts the workers (40–80 ms for two). Results never depend on `threads`.
 * @param threads at least 1; the calling thread only reads, copies and waits
 */
export const createKernels = async (threads: number): Promise<Kernels> => {
  const module = new WebAssembly.Module(readFileSync(packageFile('engine/kernel/kernels.wasm')))
  const memory = new WebAssembly.Memory({ initial: 1, maximum: maxPages, shared: true })
  const pool = new Tinypool({
    filename: packageFile('engine/kernel/worker.js').href,
    runtime: 'worker_threads',
    minThreads: threads,
    maxThreads: threads,
    idleTimeout: Number.POSITIVE_INFINITY,
    workerData: { module, memory },
  })
  let open = true
  return {
    ...createHeap(memory),
    threads,
    // the pool would start new workers
    run: calls => (open ? pool.run(calls) : Promise.reject(new Error('the kernels are closed'))),
    close: () => {
      open = false
      return pool.destroy()
    },
  }
}
