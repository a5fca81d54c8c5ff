/**
 * A worker of the kernel pool: runs a list of kernel calls over the shared memory and returns what each gave. Plain JavaScript, since a worker thread
 * does not inherit the loader that runs TypeScript from src.
 */
import { workerData } from 'node:worker_threads'

const [, { module, memory }] = workerData // the pool puts an entry of its own first
const kernels = new WebAssembly.Instance(module, { env: { memory } }).exports

export default calls => calls.map(([kernel, ...args]) => kernels[kernel](...args))
