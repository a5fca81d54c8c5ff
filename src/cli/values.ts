import type { ActivationScheme, Bits, DeclaredInputs, Group, StaticObserver } from '../contracts.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'
import { type AskedScheme, ownGroups, schemeRefusal } from '../evaluate/activation-scheme.ts'
import { typeNamed } from '../format/gguf.ts'
import { gridNames } from '../method/grids.ts'
import { nearestName } from '../nearest.ts'
import type { Override } from '../recipe.ts'

/** How the value of one option is written. `parse` throws QuantizeError bad-option, naming the nearest valid values. */
export interface ValueKind<T> {
  /** As the help shows it, e.g. `<n>`. */
  readonly shown: string
  /** All that there are, where they are a few words. */
  readonly words?: readonly string[]
  parse(text: string, flag: string): T
}

const refuse = (flag: string, text: string, needed: string, nearest?: string | number): never => {
  const hint = nearest === undefined ? '' : `; the nearest is ${nearest}`
  throw new QuantizeError('bad-option', `--${flag} ${text === '' ? '""' : text}: ${needed} is needed${hint}`)
}

const impossible = (flag: string, text: string, why: string): never => {
  throw new QuantizeError('bad-option', `--${flag} ${text}: ${why}`)
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

/** A number of at least 0. */
export const amount: ValueKind<number> = {
  shown: '<number>',
  parse(text, flag) {
    const needed = 'a number of at least 0, such as 0.001 or 1e-3,'
    const value = /^-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : refuse(flag, text, needed)
    if (!(value >= 0 && Number.isFinite(value))) refuse(flag, text, needed, value < 0 ? 0 : undefined)
    return value
  },
}

/** One of a few names; upper case is lower case and `-` is `_`. */
export const oneOf = <T extends string>(...known: readonly T[]): ValueKind<T> => ({
  shown: `<${known.join('|')}>`,
  words: known,
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

/** What shares a scale: a whole number of columns, `channel` (also -1, as other tools write it), `tensor` or `block`. */
export const groupSize: ValueKind<Group> = {
  shown: '<n|channel|tensor|block>',
  parse(text, flag) {
    const name = text.toLowerCase()
    if (name === 'channel' || name === '-1') return 'channel'
    if (name === 'tensor' || name === 'block') return name
    const needed = 'a whole number of columns, channel (or -1), tensor or block'
    if (!/^-?\d+$/.test(name)) refuse(flag, text, needed, nearestName(name, ['channel', 'tensor', 'block']))
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

/** Several values, separated by commas. */
export const listOf = <T>(item: ValueKind<T>): ValueKind<readonly T[]> => ({
  shown: `${item.shown.replace(/>$/, ',…>')}`,
  parse: (text, flag) => text.split(',').map(part => item.parse(part.trim(), flag)),
})

/** A pattern over module names. */
export const glob: ValueKind<string> = {
  shown: '<glob>',
  parse: (text, flag) => (text === '' ? refuse(flag, text, 'a pattern such as *.down_proj') : text),
}

/** One kind of value, or a word. */
export const either = <T, W extends string>(kind: ValueKind<T>, word: W): ValueKind<T | W> => ({
  shown: kind.shown.replace(/>$/, `|${word}>`),
  parse: (text, flag) => (text.toLowerCase() === word ? word : kind.parse(text, flag)),
})

export const codeBits = wholeNumber(1, 8) as ValueKind<Bits>
export const gridName = oneOf(...gridNames)

const dtypeNames = { bf16: 'BF16', f16: 'F16', f32: 'F32' } as const

const dtypeName = oneOf('bf16', 'f16', 'f32')

export const weightDtype: ValueKind<WeightDtype> = {
  ...dtypeName,
  parse: (text, flag) => dtypeNames[dtypeName.parse(text, flag)],
}

const overrideParts: Readonly<Record<string, (value: string, flag: string) => Partial<Override>>> = {
  bits: (value, flag) => ({ bits: codeBits.parse(value, flag) }),
  group: (value, flag) => ({ group: groupSize.parse(value, flag) }),
  grid: (value, flag) => ({ grid: gridName.parse(value, flag) }),
  sym: () => ({ symmetric: true }),
  asym: () => ({ symmetric: false }),
}

/** One override: `<glob>=bits:8,group:32,grid:nf4,sym`, or `<glob>=q6_k` for GGUF. */
export const override: ValueKind<readonly Override[]> = {
  shown: '<glob>=bits:<n>,group:<n>,grid:<name>,sym|asym or <glob>=<GGUF type>',
  parse(text, flag) {
    const needed = 'a pattern, = and what differs, such as *.down_proj=bits:8,group:32, or a type of GGUF,'
    const at = text.lastIndexOf('=')
    if (at < 1 || at === text.length - 1) refuse(flag, text, needed)
    const read = (part: string): Partial<Override> => {
      const [key, value = ''] = part.trim().split(':')
      if (!Object.hasOwn(overrideParts, key)) refuse(flag, text, needed, nearestName(key, Object.keys(overrideParts)))
      return overrideParts[key](value, flag)
    }
    const type = typeNamed(text.slice(at + 1))
    if (type) return [{ glob: text.slice(0, at), type }]
    const parts = text
      .slice(at + 1)
      .split(',')
      .map(read)
    return [Object.assign({ glob: text.slice(0, at) }, ...parts)]
  },
}

const activationGrid = oneOf<ActivationScheme['grid']>('int8', 'int4', 'fp8', 'nvfp4', 'mxfp4', 'mxfp8')

const observer = oneOf<StaticObserver>('minmax', 'mse', 'percentile')

const activationParts: Readonly<Record<string, (value: string, flag: string) => Partial<AskedScheme>>> = {
  sym: () => ({ symmetric: true }),
  asym: () => ({ symmetric: false }),
  token: () => ({ granularity: 'token' }),
  tensor: () => ({ granularity: 'tensor' }),
  group: (value, flag) => ({ granularity: wholeNumber(1, 2 ** 31).parse(value, flag) }),
  static: (value = 'minmax', flag) => ({
    granularity: 'tensor',
    dynamic: false,
    observer: observer.parse(value, flag),
  }),
}

/** Whether a part takes a value, must have one, or must not. */
const takesValue = (key: string, value: string | undefined): boolean =>
  key === 'static' || (value !== undefined) === (key === 'group')

/** How the inputs of linears are quantized as they come: `int8`, `int4:asym,group=128`, `fp8:tensor`, `nvfp4`. */
export const activationScheme: ValueKind<AskedScheme> = {
  shown: '<scheme>',
  parse(text, flag) {
    const needed = 'a grid and its options, such as int8, int8:asym,tensor or int4:group=128,'
    const [, name, options] = /^([^:]*)(?::(.*))?$/s.exec(text)!
    const grid = activationGrid.parse(name, flag)
    const read = (part: string): Partial<AskedScheme> => {
      const [, key, value] = /^([^=:]*)(?:[=:](.*))?$/s.exec(part.trim().toLowerCase())!
      const known = Object.hasOwn(activationParts, key) && takesValue(key, value)
      if (!known) refuse(flag, text, needed, nearestName(key, Object.keys(activationParts)))
      return activationParts[key](value, flag)
    }
    const usual: AskedScheme = { grid, symmetric: true, granularity: ownGroups[grid] ?? 'token', dynamic: true }
    const scheme: AskedScheme = Object.assign(usual, ...(options === undefined ? [] : options.split(',').map(read)))
    const refusal = schemeRefusal(scheme.dynamic ? scheme : { ...scheme, scale: 1 }) // its scale is found later
    if (refusal) impossible(flag, text, refusal)
    return scheme
  },
}

/** Of them what a checkpoint can declare: `int8`, `int8:asym`, `int8:group=64`, `fp8`. */
export const declaredInputs: ValueKind<DeclaredInputs> = {
  shown: '<scheme>',
  parse(text, flag) {
    const { grid, symmetric, granularity, dynamic } = activationScheme.parse(text, flag)
    if (!dynamic) impossible(flag, text, 'for stored scales use --activation-scales')
    if (grid !== 'int8' && grid !== 'fp8') return refuse(flag, text, 'int8 or fp8')
    if (granularity === 'tensor')
      return impossible(flag, text, 'give each token a scale, or --activation-scales minmax')
    if (grid === 'fp8' && granularity !== 'token')
      impossible(flag, text, 'groups of FP8 inputs go with --group block, by themselves')
    return { grid, symmetric, granularity }
  },
}

/** A number above 0. */
export const threshold: ValueKind<number> = {
  shown: '<number>',
  parse: (text, flag) => amount.parse(text, flag) || refuse(flag, text, 'a number above 0, such as 6.0,'),
}
