/** Exit codes of the command line, one for each kind of failure we foresee (docs/cli.md). */
export const exitCodes = { gate: 1, 'bad-option': 2, 'bad-input': 3, unsupported: 4, exhausted: 5 } as const

export type ErrorCode = keyof typeof exitCodes

/**
 * A failure that we foresee: one line that says what, where (file, tensor, byte) and what to do.
 * Anything else that is thrown is a bug and keeps its stack.
 */
export class QuantizeError extends Error {
  constructor(
    readonly code: ErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options)
    this.name = 'QuantizeError'
  }
}
