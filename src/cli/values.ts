import type { Group } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { nearestName } from './nearest.ts'

/** How the value of one option is written. `parse` throws QuantizeError bad-option, naming the nearest valid values. */
export interface ValueKind<T> {
  /** As the help shows it, e.g. `<n>`. */
  readonly shown: string
  parse(text: string, flag: string): T
}

const refuse = (flag: string, text: string, needed: string, nearest?: string | number): never => {
  const hint = nearest === undefined ? '' : `; the nearest is ${nearest}`
  throw new QuantizeError('bad-option', `--${flag} ${text === '' ? '""' : text}: ${needed} is needed${hint}`)
}

const listed = (items: readonly (string | number)[]): string =>
  items.length === 1 ? String(items[0]) : `${items.slice(0, -1).join(', ')} or ${items.at(-1)}`

/** A whole number in [low, high], written in decimal digits. */
export const wholeNumber = (low: number, high: number): ValueKind<number> => ({
  shown: '<n>',
  parse(text, flag) {
    const needed = `a whole number from ${low} to ${high}`
    const value = /^-?\d+$/.test(text) ? Number(text) : refuse(flag, text, needed)
    if (value < low || value > high) refuse(flag, text, needed, value < low ? low : high)
    return value
  },
})

/** A number in [0, 1]. */
export const fraction: ValueKind<number> = {
  shown: '<fraction>',
  parse(text, flag) {
    const needed = 'a fraction from 0 to 1'
    const value = /^-?(\d+\.?\d*|\.\d+)(e-?\d+)?$/i.test(text) ? Number(text) : refuse(flag, text, needed)
    if (value < 0 || value > 1) refuse(flag, text, needed, value < 0 ? 0 : 1)
    return value
  },
}

/** One of a few numbers, in rising order. Between two of them, both are named as nearest. */
export const oneNumberOf = <T extends number>(...known: readonly T[]): ValueKind<T> => ({
  shown: `<${known.join('|')}>`,
  parse(text, flag) {
    const needed = listed(known)
    const value = /^-?\d+$/.test(text) ? Number(text) : refuse(flag, text, needed)
    const found = known.find(candidate => candidate === value)
    if (found !== undefined) return found
    const below = known.filter(candidate => candidate < value).at(-1)
    const above = known.find(candidate => candidate > value)
    return refuse(flag, text, needed, listed([below, above].filter(candidate => candidate !== undefined)))
  },
})

/** One of a few names; upper case is lower case and `-` is `_`. */
export const oneOf = <T extends string>(...known: readonly T[]): ValueKind<T> => ({
  shown: `<${known.join('|')}>`,
  parse(text, flag) {
    const plain = (name: string) => name.toLowerCase().replaceAll('-', '_')
    const found = known.find(name => plain(name) === plain(text))
    if (found !== undefined) return found
    const nearest = nearestName(plain(text), known.map(plain))
    return refuse(flag, text, listed(known), nearest && known.find(name => plain(name) === nearest))
  },
})

/** A path; neither empty nor what looks like the next option (its value was forgotten). */
export const path = (shown: string): ValueKind<string> => ({
  shown,
  parse(text, flag) {
    if (text === '' || text.startsWith('--')) refuse(flag, text, `a ${shown.replace(/[<>]/g, '')}`)
    return text
  },
})

/** A folder to write to. */
export const outputFolder: ValueKind<string> = {
  shown: '<folder>',
  parse(text, flag) {
    if (text === '-') {
      throw new QuantizeError('unsupported', `--${flag} -: a checkpoint is not written to stdout yet; name a folder`)
    }
    return path('<folder>').parse(text, flag)
  },
}

const unitBytes: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  k: 1e3,
  kb: 1e3,
  m: 1e6,
  mb: 1e6,
  g: 1e9,
  gb: 1e9,
  t: 1e12,
  tb: 1e12,
  kib: 1024,
  mib: 1024 * 1024,
  gib: 1024 * 1024 * 1024,
  tib: 1024 * 1024 * 1024 * 1024,
}

/** A size in whole bytes: `5GB` is 5 · 10⁹ bytes, `5GiB` is 5 · 2³⁰; at least 1 kB. */
export const size: ValueKind<number> = {
  shown: '<size>',
  parse(text, flag) {
    const needed = 'a size such as 500MB, 5GB or 4GiB, at least 1kB,'
    const [, digits = '', unit = ''] = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text) ?? []
    const bytes = Math.floor(Number(digits) * (unitBytes[unit.toLowerCase()] ?? 0))
    if (!Number.isSafeInteger(bytes)) refuse(flag, text, needed)
    return bytes >= 1000 ? bytes : refuse(flag, text, needed)
  },
}

/** Columns that share a scale: a whole number, `channel` (also -1, as other tools write it) or `tensor`. */
export const groupSize: ValueKind<Group> = {
  shown: '<n|channel|tensor>',
  parse(text, flag) {
    const name = text.toLowerCase()
    if (name === 'channel' || name === '-1') return 'channel'
    if (name === 'tensor') return 'tensor'
    const needed = 'a whole number of columns, channel (or -1) or tensor'
    if (!/^-?\d+$/.test(name)) refuse(flag, text, needed, nearestName(name, ['channel', 'tensor']))
    const columns = Number(name)
    if (columns < 1) refuse(flag, text, needed, columns === 0 ? '1 or channel' : 'channel')
    return Number.isSafeInteger(columns) ? columns : refuse(flag, text, needed)
  },
}

/** `bundled`, or a file whose ending says how it is read. */
export const calibrationText: ValueKind<string> = {
  shown: '<bundled|file.txt|file.jsonl>',
  parse(text, flag) {
    if (text.toLowerCase() === 'bundled') return 'bundled'
    return /[^/\\]\.(txt|jsonl)$/i.test(text)
      ? text
      : refuse(flag, text, 'bundled, or a file that ends in .txt or .jsonl,')
  },
}
