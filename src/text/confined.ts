import { Worker } from 'node:worker_threads'

/** Why a worker had to be ended: it took too long, or its heap was full. */
export type Excess = 'time' | 'memory'

/** A request that was not answered within its means. The worker is gone. */
export class ExcessError extends Error {
  constructor(
    readonly excess: Excess,
    options?: ErrorOptions,
  ) {
    super(`the worker was ended: too much ${excess}`, options)
    this.name = 'ExcessError'
  }
}

/** A worker thread for code whose run time or memory a stranger's file decides. It does not keep the process alive between requests. */
export interface Confined {
  /**
   * Answers come in the order of the requests, which must not overlap.
   * @throws ExcessError after `limitMs`, or when the heap is full; then, and after close, every request fails
   */
  ask(request: unknown, limitMs: number): Promise<unknown>
  close(): Promise<void>
}

/** A request that waits for its answer. */
interface Pending {
  readonly resolve: (answer: unknown) => void
  readonly reject: (error: Error) => void
}

const longestTimer = 2 ** 31 - 1 // ms; a longer one would fire at once

const isHeapFull = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && error.code === 'ERR_WORKER_OUT_OF_MEMORY'

/** @param script a plain JavaScript file that answers each message of its parent with one message */
export const confine = (script: URL, maxHeapBytes: number): Confined => {
  // what the script prints (the library warns on the console) is dropped: only cli/ prints
  const worker = new Worker(script, {
    stdout: true,
    stderr: true,
    resourceLimits: { maxOldGenerationSizeMb: Math.ceil(maxHeapBytes / 2 ** 20) },
  })
  worker.unref()
  let pending: Pending | undefined
  let gone: Error | undefined
  const end = (error: Error): void => {
    gone ??= error
    pending?.reject(gone)
  }
  worker.on('message', answer => pending?.resolve(answer))
  worker.on('error', error => end(isHeapFull(error) ? new ExcessError('memory', { cause: error }) : error))
  worker.on('exit', code => end(new Error(`the worker ended with code ${code}`)))
  return {
    async ask(request, limitMs) {
      if (gone !== undefined) throw gone
      const timer = setTimeout(() => end(new ExcessError('time')), Math.min(limitMs, longestTimer)) // keeps the process alive
      try {
        return await new Promise<unknown>((resolve, reject) => {
          pending = { resolve, reject }
          worker.postMessage(request)
        })
      } finally {
        clearTimeout(timer)
        pending = undefined
        if (gone !== undefined) await worker.terminate()
      }
    },
    async close() {
      gone ??= new Error('the worker is closed')
      await worker.terminate()
    },
  }
}
