import { commandNames } from '../../src/cli/command-table.ts'
import type { Commands } from '../../src/cli/commands.ts'
import type { ProcessLike } from '../../src/cli/process.ts'

type Listener = (argument: never) => void

/** A process that records: what was written, whether it was ended, and its clock by hand. */
export class FakeProcess implements ProcessLike {
  readonly argv: readonly string[]
  readonly env: Readonly<Record<string, string | undefined>>
  readonly stdout: FakeStream
  readonly stderr: FakeStream
  exitCode?: number | string | null
  endedWith?: number
  seconds = 0
  readonly listeners = new Map<string, Set<Listener>>()

  constructor(
    args: readonly string[],
    options: { tty?: boolean; columns?: number; env?: Record<string, string> } = {},
  ) {
    this.argv = ['node', 'quantize', ...args]
    this.env = options.env ?? {}
    this.stdout = new FakeStream(options.tty ?? false, options.columns)
    this.stderr = new FakeStream(options.tty ?? false, options.columns)
  }

  exit(code: number): void {
    this.endedWith ??= code
  }

  uptime(): number {
    return this.seconds
  }

  on(event: string, listener: Listener): void {
    this.listeners.set(event, (this.listeners.get(event) ?? new Set()).add(listener))
  }

  off(event: string, listener: Listener): void {
    this.listeners.get(event)?.delete(listener)
  }

  /** How many listeners the process has. */
  get listening(): number {
    return [...this.listeners.values()].reduce((total, { size }) => total + size, 0)
  }

  emit(event: string, argument: unknown): void {
    for (const listener of this.listeners.get(event) ?? []) listener(argument as never)
  }
}

export class FakeStream {
  text = ''
  readonly isTTY: boolean
  readonly columns: number | undefined
  readonly listeners: ((error: Error) => void)[] = []

  constructor(isTTY: boolean, columns?: number) {
    this.isTTY = isTTY
    this.columns = columns
  }

  write(text: string): boolean {
    this.text += text
    return true
  }

  on(_event: 'error', listener: (error: Error) => void): void {
    this.listeners.push(listener)
  }

  fail(code: string): void {
    const error = Object.assign(new Error(`write ${code}`), { code })
    for (const listener of this.listeners) listener(error)
  }
}

const unexpected = async (): Promise<void> => {
  throw new Error('this command was not expected')
}

/** Commands of which only the given ones may run. */
export const only = (commands: Partial<Commands>): Commands =>
  ({ ...Object.fromEntries(commandNames.map(name => [name, unexpected])), ...commands }) as unknown as Commands
