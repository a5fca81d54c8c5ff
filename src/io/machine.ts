/** What the tool asks of the machine besides files and time. */
import os from 'node:os'

/** A process, as another one on this machine can find it again. */
export interface ProcessId {
  readonly host: string
  readonly pid: number
}

export const thisProcess = (): ProcessId => ({ host: os.hostname(), pid: process.pid })

/** Whether another process may still run: for one of another host it cannot be known, and is assumed. */
export const mayRun = ({ host, pid }: ProcessId): boolean => {
  if (host !== os.hostname()) return true
  if (pid === process.pid) return false
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** Memory that this process may use, in bytes: the machine's, or its cgroup's where that is less. */
export const memoryBytes = (): number => {
  const limit = process.constrainedMemory?.() ?? 0 // 0: not known; 2^64 or so: none
  return limit > 0 ? Math.min(limit, os.totalmem()) : os.totalmem()
}

/** The processor's name: products of matrices have other last bits on another one. */
export const processorName = (): string => os.cpus()[0]?.model.trim() || os.arch()
