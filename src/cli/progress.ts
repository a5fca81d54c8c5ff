/**
 * Progress events as text. On a terminal: one line, redrawn in place, with a bar, percent, time left and the step under way.
 * Elsewhere: plain lines. The cursor is never hidden and the terminal's modes are never changed, so no exit can leave them wrong.
 */
import type { ChalkInstance } from 'chalk'
import type { ProgressEvent, Report } from '../progress.ts'
import { duration, oneLine } from './text.ts'

export interface ProgressView {
  readonly report: Report
  /** Writes whole lines without breaking the bar. */
  message(text: string): void
  /** Takes the bar off the screen; later events draw it again. */
  clear(): void
}

export interface ProgressOptions {
  /** Raw text to the terminal or pipe. */
  write(text: string): void
  /** `bar` on a terminal, `lines` elsewhere, `none` under --quiet (messages still pass). */
  readonly style: 'bar' | 'lines' | 'none'
  readonly verbose: boolean
  readonly chalk: ChalkInstance
  /** Width of the terminal; asked at each drawing, for it may change. */
  columns(): number
  /** The clock, in seconds. */
  now(): number
}

/** What is known of the job under way. */
interface Job {
  readonly title: string
  readonly totalWork: number
  readonly startedAt: number
  done: number
  label: string
}

type LinearEvent = Extract<ProgressEvent, { kind: 'linear' }>

const redrawSeconds = 0.1 // smoother is not seen, and each drawing is a system call
const barCells = 24

const shareDone = ({ done, totalWork }: Job): number => (totalWork > 0 ? Math.min(1, Math.max(0, done / totalWork)) : 1)

const percentText = (job: Job): string => `${String(Math.floor(shareDone(job) * 100)).padStart(3)} %`

/** Time left at the pace so far; empty in the first second and when nothing is left. */
const timeLeft = (job: Job, now: number): string => {
  const share = shareDone(job)
  const elapsed = now - job.startedAt
  return elapsed < 1 || share === 0 || share === 1 ? '' : `ETA ${duration((elapsed * (1 - share)) / share)}`
}

const significant = (value: number): string => (Number.isFinite(value) ? value.toPrecision(3) : String(value))

/** One finished linear, in a line. */
export const linearLine = (event: LinearEvent): string => {
  const width = String(event.count).length
  const error = event.relativeOutputError === null ? '' : `, output error ${significant(event.relativeOutputError)}`
  const sqnr = Number.isFinite(event.sqnrDb) ? `SQNR ${event.sqnrDb.toFixed(1)} dB` : 'exact'
  const place = `[${String(event.index).padStart(width)}/${event.count}]`
  return oneLine(`${place} ${event.name} ${event.method}: ${sqnr}${error}, ${significant(event.seconds)} s`)
}

/** The line of the bar, without colour, cut to `columns`. */
const barLine = (job: Job, now: number, columns: number): string => {
  const cells = Math.floor(shareDone(job) * barCells)
  const bar = `[${'='.repeat(cells)}${' '.repeat(barCells - cells)}]`
  const parts = [job.title, bar, percentText(job), timeLeft(job, now), job.label].filter(part => part !== '')
  return oneLine(parts.join('  ')).slice(0, Math.max(1, columns - 1)) // a full last column would wrap
}

export function createProgress(options: ProgressOptions): ProgressView {
  if (options.style === 'bar') return barView(options)
  return options.style === 'lines' ? linesView(options) : silentView(options)
}

const startJob = ({ totalWork, title }: Extract<ProgressEvent, { kind: 'start' }>, now: number): Job => ({
  title,
  totalWork,
  startedAt: now,
  done: 0,
  label: '',
})

const barView = ({ write, verbose, chalk, columns, now }: ProgressOptions): ProgressView => {
  let job: Job | undefined
  let drawnAt = Number.NEGATIVE_INFINITY
  let onScreen = false
  const clear = () => {
    if (onScreen) write('\r\x1b[2K')
    onScreen = false
  }
  const draw = () => {
    if (!job) return
    write(`\r\x1b[2K${chalk.cyan(barLine(job, now(), columns()))}`)
    onScreen = true
    drawnAt = now()
  }
  const message = (text: string) => {
    clear()
    write(`${text}\n`)
    draw()
  }
  const report: Report = event => {
    if (event.kind === 'start') job = startJob(event, now())
    if (event.kind === 'work' && job) Object.assign(job, { done: event.done, label: event.label })
    if (event.kind === 'end') {
      job = undefined
      clear()
    } else if (event.kind === 'note') message(oneLine(event.text))
    else if (event.kind === 'linear' && verbose) message(chalk.dim(linearLine(event)))
    else if (event.kind === 'start' || now() - drawnAt >= redrawSeconds) draw()
  }
  return { report, message, clear }
}

const linesView = ({ write, now }: ProgressOptions): ProgressView => {
  let job: Job | undefined
  let tenths = 0
  const message = (text: string) => write(`${text}\n`)
  /** A job of many small steps says so ten times, not at each step. */
  const work = (current: Job) => {
    const reached = Math.floor(shareDone(current) * 10)
    if (reached <= tenths) return
    tenths = reached
    message(
      oneLine([percentText(current), timeLeft(current, now()), current.label].filter(part => part !== '').join('  ')),
    )
  }
  const report: Report = event => {
    if (event.kind === 'start') {
      job = startJob(event, now())
      tenths = 0
      message(oneLine(event.title))
    } else if (event.kind === 'work' && job) work(Object.assign(job, { done: event.done, label: event.label }))
    else if (event.kind === 'linear') message(linearLine(event))
    else if (event.kind === 'note') message(oneLine(event.text))
    else if (event.kind === 'end') job = undefined
  }
  return { report, message, clear: () => {} }
}

const silentView = ({ write }: ProgressOptions): ProgressView => ({
  report: () => {},
  message: text => write(`${text}\n`),
  clear: () => {},
})
