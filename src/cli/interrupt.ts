import { type SignalName, signalExitCodes } from './exits.ts'
import type { ProcessLike } from './process.ts'

/** The reason of the abort signal after SIGINT or SIGTERM. */
export class Interrupted extends Error {
  readonly signalName: SignalName

  constructor(signalName: SignalName) {
    super(`interrupted by ${signalName}`)
    this.name = 'Interrupted'
    this.signalName = signalName
  }
}

export interface Interrupts {
  readonly signal: AbortSignal
  /** Stops listening. */
  stop(): void
}

/**
 * The first signal aborts, and the command unwinds; a second one ends the process at once.
 * @param tell says that the first signal was seen
 * @param leave what must be done before ending at once
 */
export function listenForInterrupts(
  proc: ProcessLike,
  tell: (interrupted: Interrupted) => void,
  leave: () => void,
): Interrupts {
  const controller = new AbortController()
  const onSignal = (name: SignalName) => {
    if (controller.signal.aborted) {
      leave()
      proc.exit(signalExitCodes[name])
      return
    }
    const interrupted = new Interrupted(name)
    tell(interrupted)
    controller.abort(interrupted)
  }
  const names = Object.keys(signalExitCodes) as SignalName[]
  for (const name of names) proc.on(name, onSignal)
  return {
    signal: controller.signal,
    stop() {
      for (const name of names) proc.off(name, onSignal)
    },
  }
}
