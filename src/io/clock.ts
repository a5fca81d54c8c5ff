import { performance } from 'node:perf_hooks'

/** Time and memory, for progress and the report; a test passes one that stands still. */
export interface Clock {
  /** Milliseconds on a monotonic clock of unknown origin: only differences mean something. */
  now(): number
  /** Largest resident set of this process so far, in bytes. */
  peakMemoryBytes(): number
}

export const nodeClock: Clock = {
  now: () => performance.now(),
  peakMemoryBytes: () => process.resourceUsage().maxRSS * 1024, // libuv gives kibibytes on every system
}
