import { QuantizeError } from '../errors.ts'
import type { ProcessLike } from './process.ts'

export interface OutputGuard {
  /** The first failure of stdout other than a closed pipe. */
  failure(): QuantizeError | undefined
}

/**
 * Listens for failed writes. A closed pipe (`quantize inspect m | head`) is no failure: who closed it has read enough, and a checkpoint
 * under way is still written. A full disk behind stdout is one.
 * @param late called when the failure comes after `failure()` was asked: streams may fail at any time
 */
export function guardOutput(proc: ProcessLike, late: (failure: QuantizeError) => void): OutputGuard {
  let failed: QuantizeError | undefined
  let asked = false
  proc.stdout.on('error', error => {
    if (failed || (error as NodeJS.ErrnoException).code === 'EPIPE') return
    failed = new QuantizeError('exhausted', `stdout: ${error.message}`, { cause: error })
    if (asked) late(failed)
  })
  proc.stderr.on('error', () => {}) // nobody is left to tell
  return {
    failure() {
      asked = true
      return failed
    },
  }
}
