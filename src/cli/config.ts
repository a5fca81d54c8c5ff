/** Options from a file: `--config recipe.yaml`. A file says what flags say, by their names; what it says is parsed as they are. */
import { createRequire } from 'node:module'
import { z } from 'zod'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'
import { nearestName } from '../nearest.ts'
import { flagsOf } from './command-table.ts'
import { takesValue } from './spellings.ts'

/** One option as it would be typed: the flag without `--`, `_` as `-`; `value` where it takes one. */
export interface Typed {
  readonly flag: string
  readonly value?: string
}

/** Looked for before anything is read, or of no use in a file. */
const ofTheCommandLine: readonly string[] = ['config', 'json', 'quiet', 'verbose', 'help', 'version']

/** The names that a file may use. */
export const configNames = (): readonly string[] => flagsOf('quantize').filter(flag => !ofTheCommandLine.includes(flag))

const scalar = z.union([z.string(), z.number(), z.boolean()])
const configSchema = z.record(
  z.string(),
  z.union([scalar, z.array(scalar), z.record(z.string(), z.union([scalar, z.record(z.string(), scalar)]))]),
)
type Value = z.infer<typeof configSchema>[string]

/** Aliases could make a small file a large value: none is followed. */
const yamlOptions = { maxAliasCount: 0 } as const

/**
 * @param path for messages
 * @throws QuantizeError bad-option for what is no YAML, no map, or names what is no option, with the nearest name
 */
export const readConfig = (text: string, path: string): readonly Typed[] => {
  const wrong = (what: string): QuantizeError => new QuantizeError('bad-option', `--config ${path}: ${what}`)
  const parsed = configSchema.safeParse(fromYaml(text, wrong))
  if (!parsed.success) {
    const { path: at, message } = parsed.error.issues[0]
    throw wrong(
      at.length === 0
        ? 'it must hold names of options with their values, such as bits: 4'
        : `${printable(at.join('.'))}: ${message}`,
    )
  }
  const names = configNames()
  return Object.entries(parsed.data).flatMap(([key, value]) => {
    const flag = key.replaceAll('_', '-')
    if (ofTheCommandLine.includes(flag)) throw wrong(`${flag} belongs on the command line`)
    if (!names.includes(flag)) {
      const nearest = nearestName(flag, names)
      throw wrong(`${printable(key)}: no such option; ${nearest ? `the nearest is ${nearest}` : 'see quantize --help'}`)
    }
    if (value === false && takesValue(flag))
      throw wrong(`${printable(key)}: false is no value of it; leave the line out`)
    return typedAs(flag, value)
  })
}

/** Only now: loading it at every start would cost each run 20 ms. */
const loadYaml = (): typeof import('yaml') => createRequire(import.meta.url)('yaml')

const fromYaml = (text: string, wrong: (what: string) => QuantizeError): unknown => {
  const document = loadYaml().parseDocument(text, { prettyErrors: true, uniqueKeys: true })
  const [error] = document.errors
  if (error) throw wrong(printable(error.message.split('\n')[0]))
  try {
    return document.toJS(yamlOptions)
  } catch (failure) {
    throw wrong(printable(failure instanceof Error ? failure.message : String(failure)))
  }
}

/** false: the switch is not given. A list is one value with commas; a map, of patterns, several values. */
const typedAs = (flag: string, value: Value): readonly Typed[] => {
  if (typeof value === 'boolean') return value ? [{ flag }] : []
  if (Array.isArray(value))
    return flag === 'override'
      ? value.map(item => ({ flag, value: String(item) }))
      : [{ flag, value: value.map(String).join(',') }]
  if (typeof value === 'object')
    return Object.entries(value).map(([pattern, what]) => ({ flag, value: `${pattern}=${partsOf(what)}` }))
  return [{ flag, value: String(value) }]
}

/** `bits:8,group:32` of { bits: 8, group: 32 }; true says the name alone. */
const partsOf = (what: string | number | boolean | Readonly<Record<string, string | number | boolean>>): string =>
  typeof what === 'object'
    ? Object.entries(what)
        .flatMap(([name, value]) => (value === false ? [] : [value === true ? name : `${name}:${value}`]))
        .join(',')
    : String(what)
