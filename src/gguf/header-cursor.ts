import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { printable } from '../io/printable.ts'
import { add, toSize } from '../io/size.ts'

export const maxHeaderBytes = 100_000_000 // five times the vocabulary of a quarter of a million tokens
const firstBytes = 65_536

/**
 * The header of an open file, read from its start as far as it is asked for. Nothing is allocated for bytes that the file does not have.
 * Positions count from the start of the file; what is wrong begins with `where`.
 */
export class HeaderCursor {
  readonly #files: Files
  readonly #descriptor: number
  /** The file's name as messages show it. */
  readonly #shown: string
  readonly fileBytes: number
  #bytes = new Uint8Array(0)
  #view = new DataView(this.#bytes.buffer)
  #at = 0
  /** What is being read, e.g. `key "general.name": `. */
  where = ''

  constructor(files: Files, descriptor: number, file: string) {
    this.#files = files
    this.#descriptor = descriptor
    this.#shown = printable(file)
    this.fileBytes = files.statOpen(descriptor).bytes
  }

  get at(): number {
    return this.#at
  }

  fail(problem: string, code: 'bad-input' | 'unsupported' = 'bad-input'): never {
    throw new QuantizeError(code, `${this.#shown}: ${this.where}${problem}`)
  }

  /** Bytes between here and the end of the file, or of the longest header. */
  get left(): number {
    return Math.min(this.fileBytes, maxHeaderBytes) - this.#at
  }

  /** Passes `count` bytes; returns where they begin. */
  skip(count: number): number {
    const start = this.#at
    const end = add(start, count, `${this.#shown}: ${this.where}a length`)
    if (end > this.fileBytes)
      this.fail(`the file is cut off: it ends at byte ${this.fileBytes}, inside its header; copy or download it again`)
    if (end > maxHeaderBytes) this.fail(`the header is longer than ${maxHeaderBytes} bytes`)
    if (end > this.#bytes.length) this.#load(end)
    this.#at = end
    return start
  }

  u32(): number {
    const start = this.skip(4)
    return this.#view.getUint32(start, true)
  }

  i32(): number {
    const start = this.skip(4)
    return this.#view.getInt32(start, true)
  }

  /** A u64 that counts something. */
  count(what: string): number {
    const start = this.skip(8)
    return toSize(this.#view.getBigUint64(start, true), `${this.#shown}: ${this.where}${what}`)
  }

  /** An i64 that counts something. */
  signedCount(what: string): number {
    const start = this.skip(8)
    return toSize(this.#view.getBigInt64(start, true), `${this.#shown}: ${this.where}${what}`)
  }

  /** Passes a string; returns the range of its bytes. */
  skipString(maxBytes = maxHeaderBytes): readonly [number, number] {
    const length = this.count('the length of a string')
    if (length > maxBytes) this.fail(`a string of ${length} bytes is longer than ${maxBytes}`)
    const start = this.skip(length)
    return [start, start + length]
  }

  string(what: string, maxBytes?: number): string {
    const [start, end] = this.skipString(maxBytes)
    return this.text(start, end, what)
  }

  /** Bytes that were passed, as text. */
  text(start: number, end: number, what: string): string {
    try {
      return decoder.decode(this.#bytes.subarray(start, end))
    } catch {
      return this.fail(`${what} is not UTF-8`)
    }
  }

  /** Over the bytes that were passed. */
  get view(): DataView {
    return this.#view
  }

  #load(end: number): void {
    const limit = Math.min(this.fileBytes, maxHeaderBytes)
    const grown = new Uint8Array(Math.min(limit, Math.max(end, 2 * this.#bytes.length, firstBytes)))
    grown.set(this.#bytes)
    const rest = grown.subarray(this.#bytes.length)
    const count = this.#files.readAt(this.#descriptor, rest, this.#bytes.length)
    if (count < rest.length) this.fail('the file became shorter while it was read')
    this.#bytes = grown
    this.#view = new DataView(grown.buffer)
  }
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }) // a token may begin with U+FEFF
