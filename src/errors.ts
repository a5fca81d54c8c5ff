/** Exit codes of the command line, one for each kind of failure we foresee (docs/cli.md). */
export const exitCodes = { gate: 1, 'bad-option': 2, 'bad-input': 3, unsupported: 4, exhausted: 5 } as const

export type ErrorCode = keyof typeof exitCodes

/**
 * A failure that we foresee: one line that says what, where (file, tensor, byte) and what to do.
 * Anything else that is thrown is a bug and keeps its stack.
 */
export class QuantizeError extends Error {
  /** The same command on the same files fails the same way: nothing is kept to go on from. */
  readonly lasting: boolean

  constructor(
    readonly code: ErrorCode,
    message: string,
    options: ErrorOptions & { readonly lasting?: boolean } = {},
  ) {
    super(message, options)
    this.name = 'QuantizeError'
    this.lasting = options.lasting ?? false
  }
}
