import { version } from '../version.ts'
import { commands as defaultCommands } from './commands/index.ts'
import type { Commands } from './commands.ts'
import { bugExitCode } from './exits.ts'
import { type Failure, failureOf } from './failure.ts'
import { type Interrupts, listenForInterrupts } from './interrupt.ts'
import { guardOutput } from './output.ts'
import { type Job, type Parsed, parse } from './parse.ts'
import type { ProcessLike } from './process.ts'
import { helpText } from './program.ts'
import { createTerminal, type Terminal, type Ui } from './ui.ts'

/** Runs the command line: parses, runs one command, sets `proc.exitCode` (src/cli/exits.ts). Never rejects. */
export async function main(proc: ProcessLike, commands: Commands = defaultCommands): Promise<void> {
  const args = proc.argv.slice(2)
  // Looked for before parsing, which may fail and must be told in the right way; none has another spelling or a value.
  const has = (flag: string) => args.includes(flag)
  const [json, verbose, quiet] = [has('--json'), has('--verbose'), has('--quiet')]
  const interrupts: Interrupts = listenForInterrupts(
    proc,
    ({ message }) => terminal.warn(`${message}: stopping; once more to end at once`),
    () => terminal.close(),
  )
  const terminal: Terminal = createTerminal(proc, { quiet, verbose, signal: interrupts.signal })
  const fail = (failure: Failure) => tell(failure, terminal, json)
  const output = guardOutput(proc, failure => {
    proc.exitCode = fail(failureOf(failure, verbose))
  })
  const onUncaught = (error: Error) => proc.exit(fail(failureOf(error, verbose, interrupts.signal.reason)))
  proc.on('uncaughtException', onUncaught)
  // Where nothing keeps the process alive while a command still waits, Node ends it: that is a bug, not a success.
  proc.exitCode = bugExitCode
  try {
    await run(parse(args), commands, terminal, proc)
    interrupts.signal.throwIfAborted()
    const failure = output.failure()
    proc.exitCode = failure ? fail(failureOf(failure, verbose)) : 0
  } catch (error) {
    proc.exitCode = fail(failureOf(error, verbose, interrupts.signal.reason))
  } finally {
    terminal.close()
    interrupts.stop()
    proc.off('uncaughtException', onUncaught)
  }
}

const run = async (parsed: Parsed, commands: Commands, ui: Ui, proc: ProcessLike): Promise<void> => {
  if (parsed.command === 'version') ui.data(version)
  else if (parsed.command === 'help') ui.data(helpText(parsed.topic, proc.stdout.columns || undefined))
  else await runJob(parsed, commands, ui)
}

/** The parser made the options for this very command. */
const runJob = ({ command, options }: Job, commands: Commands, ui: Ui): Promise<void> =>
  commands[command](options as never, ui)

/** Says what failed, on stderr and, where a JSON document was asked for and none was written, on stdout. Returns the exit code. */
const tell = ({ code, message, exitCode, details }: Failure, terminal: Terminal, json: boolean): number => {
  if (code !== 'interrupted' || details) terminal.fail(message, details) // the signal itself was told when it came
  if (json && !terminal.jsonWritten) terminal.json({ error: { code, message, exitCode } })
  return exitCode
}
