/**
 * Sessions of ONNX Runtime on the CPU, one for each distinct graph. The library is loaded with the first session, so that a run
 * without tensor math never pays for it (50 MB, 0.1 s).
 */
import { setFlagsFromString } from 'node:v8'
import type * as Ort from 'onnxruntime-node'
import { encodeGraph, type Graph } from './onnx.ts'

export type Tensor = Ort.Tensor
export type Feeds = Readonly<Record<string, Tensor>>

export interface Engine {
  readonly threads: number
  /** Elements must lie in ordinary memory: ONNX Runtime refuses a SharedArrayBuffer. No copy is made. */
  tensor(data: Float32Array | Int32Array | BigInt64Array, shape: readonly number[]): Tensor
  /** A session for the graph that `build` gives; built and compiled once for each `key` and number of threads (at most the engine's). */
  graph(key: string, build: () => Graph, threadLimit?: number): Promise<GraphSession>
  /** Frees every session. Never while a run is in flight. */
  release(): Promise<void>
}

export interface GraphSession {
  /** Runs the graph. Outputs named in `into` are written into those tensors (same shape), the others are allocated. */
  run(feeds: Feeds, into?: Feeds): Promise<Record<string, Tensor>>
}

const sessionOptions = (threads: number): Ort.InferenceSession.SessionOptions => ({
  executionProviders: ['cpu'],
  intraOpNumThreads: threads,
  interOpNumThreads: 1,
  executionMode: 'sequential',
  graphOptimizationLevel: 'all',
  enableCpuMemArena: true,
  // without the pattern the arena keeps one block instead of two: 726 MB against 1266 MB at equal speed
  enableMemPattern: false,
  logSeverityLevel: 3,
  // idle pools that spin steal the cores of the next session and of the kernels: 1.85 times slower with seven sessions
  extra: { session: { force_spinning_stop: '1' } },
})

/**
 * The binding makes a new ArrayBuffer for every output of a run, also for one that it wrote in place, and V8 starts to mark the heap
 * whenever 64 MB of them were made: several times a second. Marking in steps, with helpers on other threads, takes the cores that
 * ONNX Runtime's threads wait for; marking these small heaps at once takes 5 ms. 45 s against 37 s for smollm2-135m, 16 × 512 tokens.
 */
const markAtOnce = (): void => setFlagsFromString('--no-incremental-marking')

export const createEngine = async (threads: number): Promise<Engine> => {
  markAtOnce()
  const ort = await import('onnxruntime-node')
  const sessions = new Map<string, Promise<Ort.InferenceSession>>()
  return {
    threads,
    tensor(data, shape) {
      const type = data instanceof Float32Array ? 'float32' : data instanceof Int32Array ? 'int32' : 'int64'
      return new ort.Tensor(type, data as Float32Array, shape)
    },
    async graph(key, build, threadLimit = threads) {
      const used = Math.min(threads, threadLimit)
      const sessionKey = `${used} ${key}`
      let session = sessions.get(sessionKey)
      if (!session) {
        session = ort.InferenceSession.create(encodeGraph(build()), sessionOptions(used))
        sessions.set(sessionKey, session)
      }
      const ready = await session
      return {
        run: (feeds, into) => (into ? ready.run(feeds, into) : ready.run(feeds)) as Promise<Record<string, Tensor>>,
      }
    },
    async release() {
      const open = [...sessions.values()]
      sessions.clear()
      for (const session of open) await (await session).release()
    },
  }
}
