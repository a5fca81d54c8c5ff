import { Chalk, type ChalkInstance } from 'chalk'
import type { Report } from '../progress.ts'
import type { OutputStream, ProcessLike } from './process.ts'
import { createProgress } from './progress.ts'
import { oneLine } from './text.ts'

/** What a command says: stdout carries the data that was asked for, stderr people's text. */
export interface Ui {
  /** Text that is the answer of the command, to stdout: inspect's and eval's tables. */
  data(text: string): void
  /** The one document of --json, to stdout. A second one is a bug. */
  json(document: unknown): void
  /** People's text, to stderr: the plan, the final table. Nothing under --quiet. */
  print(text: string): void
  /** `warning: …` on stderr, under --quiet too. */
  warn(text: string): void
  readonly report: Report
  /** Colours for `print`; none unless stderr is a terminal. */
  readonly style: ChalkInstance
  /** Width of stderr, in characters. */
  readonly columns: number
  /** Aborted by SIGINT and SIGTERM: a command stops at the next place that leaves nothing half done. */
  readonly signal: AbortSignal
}

export interface Terminal extends Ui {
  readonly jsonWritten: boolean
  /** `error: …` on stderr, then the details, if any, as they are. */
  fail(message: string, details?: string): void
  /** Takes the progress bar off the screen. */
  close(): void
}

export interface UiOptions {
  readonly quiet: boolean
  readonly verbose: boolean
  readonly signal: AbortSignal
}

/** A dumb terminal cannot redraw a line. */
const isScreen = (stream: OutputStream, env: ProcessLike['env']): boolean =>
  stream.isTTY === true && env.TERM !== 'dumb'

/** A terminal that does not know its width says 0. */
const widthOf = ({ columns }: OutputStream): number => columns || 80

/** https://no-color.org: set, and not empty. */
const wantsColour = ({ stderr, env }: ProcessLike): boolean => isScreen(stderr, env) && !env.NO_COLOR

const ending = (text: string): string => (text.endsWith('\n') ? text : `${text}\n`)

export function createTerminal(proc: ProcessLike, { quiet, verbose, signal }: UiOptions): Terminal {
  const { stdout, stderr, env } = proc
  const style = new Chalk({ level: wantsColour(proc) ? 1 : 0 })
  const progress = createProgress({
    write: text => stderr.write(text),
    style: quiet ? 'none' : isScreen(stderr, env) ? 'bar' : 'lines',
    verbose,
    chalk: style,
    columns: () => widthOf(stderr),
    now: () => proc.uptime(),
  })
  let jsonWritten = false
  return {
    report: progress.report,
    style,
    signal,
    get columns() {
      return widthOf(stderr)
    },
    get jsonWritten() {
      return jsonWritten
    },
    data(text) {
      progress.clear()
      stdout.write(ending(text))
    },
    json(document) {
      if (jsonWritten) throw new Error('a second JSON document for stdout')
      jsonWritten = true
      progress.clear()
      stdout.write(`${JSON.stringify(document, null, 2)}\n`)
    },
    print(text) {
      if (!quiet) progress.message(ending(text).slice(0, -1))
    },
    warn: text => progress.message(`${style.yellow('warning:')} ${oneLine(text)}`),
    fail(message, details) {
      progress.clear()
      stderr.write(`${style.red('error:')} ${oneLine(message)}\n${details ? ending(details) : ''}`)
    },
    close: progress.clear,
  }
}
