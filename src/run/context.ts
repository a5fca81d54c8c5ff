import type { Clock } from '../io/clock.ts'
import type { Files } from '../io/files.ts'
import type { MemoryPlan } from '../memory.ts'
import type { Report } from '../progress.ts'

/** What a job is given besides its task. */
export interface RunContext {
  readonly files: Files
  readonly clock: Clock
  readonly threads: number
  readonly memory: MemoryPlan
  readonly progress: Report
  /** Aborted when the user interrupts: looked at between chunks and linears. */
  readonly signal: AbortSignal
}
