import { exitCodes, QuantizeError } from '../errors.ts'
import { version } from '../version.ts'
import { bugExitCode, signalExitCodes } from './exits.ts'
import { Interrupted } from './interrupt.ts'
import { oneLine } from './text.ts'

/** A failure as the user sees it. */
export interface Failure {
  /** Name in the JSON error document. */
  readonly code: string
  readonly message: string
  readonly exitCode: number
  /** Text after the error's line. */
  readonly details?: string
}

/** The message, which may quote names of a file, in one line; then the frames. */
const stackOf = (error: Error): string => {
  const cause = error.cause instanceof Error ? `\ncaused by ${stackOf(error.cause)}` : ''
  const stack = error.stack ?? error.message
  return `${error.message === '' ? stack : stack.replace(error.message, () => oneLine(error.message))}${cause}`
}

/** The words of V8, of a worker thread and of ONNX Runtime when memory cannot be had. */
const isOutOfMemory = (error: Error): boolean =>
  (error instanceof RangeError && /allocation failed|could not allocate memory/i.test(error.message)) ||
  ('code' in error && error.code === 'ERR_WORKER_OUT_OF_MEMORY') ||
  /Failed to allocate memory for requested buffer|std::bad_alloc/.test(error.message)

/**
 * @param verbose foreseen failures show their stack too
 * @param interrupted whatever is thrown after a signal is its consequence
 */
export function failureOf(error: unknown, verbose: boolean, interrupted?: unknown): Failure {
  const thrown = error instanceof Error ? error : new Error(`thrown: ${String(error)}`)
  const details = verbose ? stackOf(thrown) : undefined
  const cause = interrupted ?? thrown
  if (cause instanceof Interrupted)
    return { code: 'interrupted', message: cause.message, exitCode: signalExitCodes[cause.signalName], details }
  if (thrown instanceof QuantizeError)
    return { code: thrown.code, message: thrown.message, exitCode: exitCodes[thrown.code], details }
  if (isOutOfMemory(thrown)) {
    const message = `out of memory: ${thrown.message}; free some, or give a smaller --max-memory, or a shorter --seq-len`
    return { code: 'exhausted', message, exitCode: exitCodes.exhausted, details }
  }
  const bug = `this is a bug in quantize ${version}; please report it with the lines above`
  return { code: 'internal', message: thrown.message, exitCode: bugExitCode, details: `${stackOf(thrown)}\n${bug}` }
}
