import type { SignalName } from './exits.ts'

/** A stream that people or programs read. */
export interface OutputStream {
  write(text: string): unknown
  readonly isTTY?: boolean
  readonly columns?: number
  on(event: 'error', listener: (error: Error) => void): unknown
}

/** The slice of `process` that the command line uses, so that tests can pass a fake. */
export interface ProcessLike {
  /** Program, script, then the arguments. */
  readonly argv: readonly string[]
  readonly env: Readonly<Record<string, string | undefined>>
  readonly stdout: OutputStream
  readonly stderr: OutputStream
  exitCode?: number | string | null
  /** Ends at once. */
  exit(code: number): unknown
  /** Seconds since the start: the command line's clock. */
  uptime(): number
  on(event: SignalName, listener: (signal: SignalName) => void): unknown
  on(event: 'uncaughtException', listener: (error: Error) => void): unknown
  off(event: SignalName, listener: (signal: SignalName) => void): unknown
  off(event: 'uncaughtException', listener: (error: Error) => void): unknown
}
