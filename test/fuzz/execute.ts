/** The rules that hold for every execution of a parser, whatever the file. */
import { performance } from 'node:perf_hooks'
import { QuantizeError } from '../../src/errors.ts'
import type { Parser } from './parsers.ts'

export const maxMs = 1000
/** Of buffers: four times the file, and what Node's pool and a fixed buffer take. JSON becomes objects, which the caps of each file bound. */
export const maxAllocation = (fileBytes: number): number => 4 * fileBytes + 256 * 1024

export interface Execution {
  readonly accepted: boolean
  readonly elapsedMs: number
  /** Largest of: a buffer to read into; growth of all buffers of the process. */
  readonly allocatedBytes: number
  /** What was broken. */
  readonly crash?: string
}

const explain = (error: unknown): string => (error instanceof Error ? (error.stack ?? error.message) : String(error))

const crashOf = (error: unknown): string | undefined => {
  if (!(error instanceof QuantizeError)) return `threw ${explain(error)}`
  if (error.code === 'gate' || error.code === 'bad-option') return `threw the code ${error.code}: ${error.message}`
  return /[\p{Cc}\p{Zl}\p{Zp}]/u.test(error.message) ? `not one line: ${JSON.stringify(error.message)}` : undefined
}

const overTime = (error: unknown): boolean =>
  error instanceof QuantizeError && error.message.endsWith('one of its patterns may backtrack without end')

export const execute = async (parser: Parser, bytes: Uint8Array): Promise<Execution> => {
  const before = process.memoryUsage().arrayBuffers
  const began = performance.now()
  let accepted = false
  let largestRead = 0
  let crash: string | undefined
  let stopped = false
  try {
    const result = parser.parse(bytes)
    largestRead = typeof result === 'number' ? result : await result
    accepted = true
  } catch (error) {
    crash = crashOf(error)
    stopped = overTime(error) // the time limit has done its work
  }
  const elapsedMs = performance.now() - began
  const allocatedBytes = Math.max(largestRead, process.memoryUsage().arrayBuffers - before)
  if (elapsedMs > maxMs && !stopped) crash ??= `took ${Math.round(elapsedMs)} ms`
  if (allocatedBytes > maxAllocation(bytes.byteLength))
    crash ??= `allocated ${allocatedBytes} bytes for a file of ${bytes.byteLength}`
  return { accepted, elapsedMs, allocatedBytes, crash }
}
