import { isUtf8 } from 'node:buffer'
import { printable } from '../io/printable.ts'
import { unescapeJson } from './json-string.ts'

const maxDepth = 64 // nesting of values that are skipped; the official files hold none at all

const code = (character: string): number => character.charCodeAt(0)
const quote = code('"')
const backslash = code('\\')
const zero = code('0')
const nine = code('9')

const isDigit = (byte: number): boolean => byte >= zero && byte <= nine
const isSpace = (byte: number): boolean => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09

/**
 * Strict JSON (RFC 8259), read in one pass by the caller's own grammar. Unlike JSON.parse it shows every key in order
 * (duplicates, `__proto__`), tells 4 from 4.0 and 4e0, keeps integers exact, and allocates only the strings asked for.
 * Whatever is wrong goes to `fail` with the byte where it stands.
 */
export class JsonScanner {
  readonly #bytes: Uint8Array
  readonly #text: Buffer
  readonly #fail: (problem: string, byte: number) => never
  #at = 0

  constructor(bytes: Uint8Array, fail: (problem: string, byte: number) => never) {
    this.#bytes = bytes
    this.#text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#fail = fail
    if (!isUtf8(bytes)) this.fail('the text is not UTF-8', 0)
  }

  /** The byte that comes next, after white space. */
  get at(): number {
    while (isSpace(this.#bytes[this.#at])) this.#at++
    return this.#at
  }

  fail(problem: string, byte = this.#at): never {
    return this.#fail(problem, byte)
  }

  /** Calls `entry` at each value of an object; it must take the value. */
  object(entry: (key: string, keyAt: number) => void, maxKeyBytes: number): void {
    this.#take('{')
    if (this.#accept('}')) return
    do {
      const keyAt = this.at
      const key = this.string(maxKeyBytes)
      this.#take(':')
      entry(key, keyAt)
    } while (this.#accept(','))
    this.#take('}')
  }

  /** Calls `item` at each value of an array; it must take the value. */
  array(item: () => void): void {
    this.#take('[')
    if (this.#accept(']')) return
    do item()
    while (this.#accept(','))
    this.#take(']')
  }

  /** A string; lone surrogates are refused, so that every string has one UTF-8 form. */
  string(maxBytes: number): string {
    const start = this.at
    const escaped = this.#passString()
    const length = this.#at - start - 2
    if (length > maxBytes) this.fail(`a string of ${length} bytes is longer than ${maxBytes}`, start)
    if (!escaped) return this.#text.toString('utf8', start + 1, this.#at - 1)
    return unescapeJson(this.#bytes.subarray(start + 1, this.#at - 1), problem => this.fail(problem, start))
  }

  /** An integer in [0, 2^53 - 1], digits only. */
  integer(): number {
    const start = this.at
    if (this.#bytes[start] === code('-')) this.fail('a negative number, where a size must stand')
    this.#passDigits()
    const next = this.#bytes[this.#at]
    if (next === code('.') || next === code('e') || next === code('E'))
      this.fail('a number with a fraction or exponent, where an integer must stand', start)
    const value =
      this.#at - start > 16 ? Number.POSITIVE_INFINITY : Number(this.#text.toString('latin1', start, this.#at))
    return value <= Number.MAX_SAFE_INTEGER ? value : this.fail('a number beyond 2^53 - 1', start)
  }

  /** Takes `null` if it comes next. */
  acceptNull(): boolean {
    if (this.#bytes[this.at] !== code('n')) return false
    this.#word('null')
    return true
  }

  /** Any value, checked and dropped. */
  skip(): void {
    this.#pass(0, false)
  }

  /** As skip, where no object may give a key twice: readers differ in which one they take. */
  skipDistinct(): void {
    this.#pass(0, true)
  }

  /** Nothing but white space may be left. */
  end(): void {
    if (this.at < this.#bytes.length) this.fail('more text after the end of the object')
  }

  #pass(depth: number, distinct: boolean): void {
    if (depth > maxDepth) this.fail(`values are nested deeper than ${maxDepth}`)
    const next = String.fromCharCode(this.#bytes[this.at] ?? 0)
    if (next === '{') this.#passObject(depth, distinct)
    else if (next === '[') this.array(() => this.#pass(depth + 1, distinct))
    else if (next === '"') this.string(Number.POSITIVE_INFINITY)
    else if (next === 't') this.#word('true')
    else if (next === 'f') this.#word('false')
    else if (next === 'n') this.#word('null')
    else this.#passNumber()
  }

  #passObject(depth: number, distinct: boolean): void {
    const seen = distinct ? new Set<string>() : undefined
    this.object((key, at) => {
      if (seen?.has(key)) this.fail(`"${printable(key)}" is given twice`, at)
      seen?.add(key)
      this.#pass(depth + 1, distinct)
    }, Number.POSITIVE_INFINITY)
  }

  #accept(character: string): boolean {
    if (this.#bytes[this.at] !== code(character)) return false
    this.#at++
    return true
  }

  #take(character: string): void {
    if (!this.#accept(character)) this.fail(`expected '${character}'`)
  }

  #word(word: string): void {
    const end = this.#at + word.length
    if (this.#text.toString('latin1', this.#at, end) !== word) this.fail('not a JSON value')
    this.#at = end
  }

  /** To behind the closing quote; tells whether there were escapes. */
  #passString(): boolean {
    const bytes = this.#bytes
    if (bytes[this.#at] !== quote) this.fail('expected a string')
    let escaped = false
    let i = this.#at + 1
    for (; bytes[i] !== quote; i++) {
      if (i >= bytes.length) this.fail('a string without end')
      if (bytes[i] < 0x20) this.fail('a bare control character in a string', i)
      if (bytes[i] === backslash) {
        escaped = true
        i++
      }
    }
    this.#at = i + 1
    return escaped
  }

  #passDigits(): void {
    const start = this.#at
    while (isDigit(this.#bytes[this.#at])) this.#at++
    if (this.#at === start) this.fail('expected a number')
    if (this.#bytes[start] === zero && this.#at > start + 1) this.fail('a number with a leading zero', start)
  }

  #passNumber(): void {
    const bytes = this.#bytes
    const start = this.#at
    while (isDigit(bytes[this.#at]) || '+-.eE'.includes(String.fromCharCode(bytes[this.#at] ?? 0))) this.#at++
    const text = this.#text.toString('latin1', start, this.#at)
    if (!/^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$/.test(text)) this.fail('not a JSON value', start)
  }
}
