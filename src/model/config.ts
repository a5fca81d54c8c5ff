/**
 * config.json as an architecture reads it: typed fields with the name in every complaint, and one table an architecture that says
 * of each field whether it is implemented, has no effect on the function, or may only have one value.
 */
import { QuantizeError } from '../errors.ts'
import { isObject } from '../io/is-object.ts'
import { printable } from '../io/printable.ts'

/**
 * What an architecture makes of one config field. A value of null counts as absent everywhere.
 * `only`: the field changes the function and just these values are computed; any other is refused by name.
 * `note`: no effect here, but the user should read why.
 */
export type FieldRule =
  | 'implemented'
  | 'no effect'
  | { readonly only: readonly unknown[] | ((value: unknown) => boolean); readonly want: string }
  | { readonly note: string }

export type FieldTable = Readonly<Record<string, FieldRule>>

export interface Range {
  readonly min: number
  readonly max: number
}

/** A JSON object of a config; `Otherwise` is what an absent field means, and a field without one is required. */
export interface Config {
  /** File and path of the section, as complaints begin: `config.json: ` or `config.json: rope_scaling.`. */
  readonly where: string
  /** The field's name as a note quotes it: `config.json: field "rope_scaling.x"`. */
  quoted(field: string): string
  /** Names of the fields that are present and not null. */
  readonly names: readonly string[]
  value(field: string): unknown
  /** Written down as null, which some fields distinguish from absent. */
  isNull(field: string): boolean
  integer(field: string, range: Range, otherwise?: number): number
  number(field: string, range: Range, otherwise?: number): number
  boolean(field: string, otherwise?: boolean): boolean
  text(field: string, otherwise?: string): string
  /** A nested object; undefined when absent. */
  section(field: string): Config | undefined
}

/** A config value in a message: data of the file, so escaped, cut and never deep. */
export const shown = (value: unknown): string => {
  if (Array.isArray(value)) return `a list of ${value.length}`
  if (typeof value === 'object' && value !== null) return 'an object'
  return printable(JSON.stringify(value) ?? 'nothing')
}

const openSection = (raw: Readonly<Record<string, unknown>>, file: string, path: string): Config => {
  const where = `${file}: ${path}`
  const value = (field: string): unknown => (Object.hasOwn(raw, field) ? (raw[field] ?? undefined) : undefined)
  const read = <T>(field: string, want: string, fits: (value: unknown) => value is T, otherwise?: T): T => {
    const found = value(field)
    if (fits(found)) return found
    if (found !== undefined)
      throw new QuantizeError('bad-input', `${where}${field} must be ${want}, not ${shown(found)}`)
    if (otherwise === undefined) throw new QuantizeError('bad-input', `${where}${field} is missing (${want})`)
    return otherwise
  }
  const within =
    ({ min, max }: Range, whole: boolean) =>
    (found: unknown): found is number =>
      typeof found === 'number' && (!whole || Number.isInteger(found)) && found >= min && found <= max
  return {
    where,
    quoted: field => `${file}: field "${path}${printable(field)}"`,
    names: Object.keys(raw).filter(field => value(field) !== undefined),
    value,
    isNull: field => Object.hasOwn(raw, field) && raw[field] === null,
    integer: (field, range, otherwise) =>
      read(field, `an integer from ${range.min} to ${range.max}`, within(range, true), otherwise),
    number: (field, range, otherwise) =>
      read(field, `a number from ${range.min} to ${range.max}`, within(range, false), otherwise),
    boolean: (field, otherwise) =>
      read(field, 'true or false', (found): found is boolean => typeof found === 'boolean', otherwise),
    text: (field, otherwise) =>
      read(field, 'a string', (found): found is string => typeof found === 'string', otherwise),
    section: field =>
      value(field) === undefined
        ? undefined
        : openSection(read(field, 'an object', isObject), file, `${path}${field}.`),
  }
}

/**
 * @param raw parsed config.json
 * @param file its name, for messages
 * @throws QuantizeError bad-input when it is not an object
 */
export const openConfig = (raw: unknown, file: string): Config => {
  if (!isObject(raw)) throw new QuantizeError('bad-input', `${file}: must hold an object, not ${shown(raw)}`)
  return openSection(raw, file, '')
}

/** Added to every refusal: what works without a forward pass. */
const wayOut = '--method rtn needs no forward pass and works'

/** A refusal by name (exit code 4): this value of this field is a function that we do not compute. */
export const unsupported = (config: Config, field: string, value: unknown, arch: string, want: string): QuantizeError =>
  new QuantizeError(
    'unsupported',
    `${config.where}${printable(field)} ${shown(value)} is not implemented for ${arch} (only ${want}); ${wayOut}`,
  )

const allows = (
  rule: { readonly only: readonly unknown[] | ((value: unknown) => boolean) },
  value: unknown,
): boolean => (typeof rule.only === 'function' ? rule.only(value) : rule.only.includes(value))

/**
 * Holds every present field of a config against the architecture's table.
 * @returns notes for the report: fields in no table, which transformers does not read either
 * @throws QuantizeError unsupported, naming the field, for a value that changes the function and is not computed
 */
export const checkFields = (config: Config, arch: string, ...tables: readonly FieldTable[]): readonly string[] =>
  config.names.flatMap(field => {
    const rule = tables.find(table => Object.hasOwn(table, field))?.[field]
    const name = config.quoted(field)
    if (rule === undefined) return [`${name} is not known to ${arch} and is ignored, as transformers ignores it`]
    if (typeof rule === 'string') return []
    if ('note' in rule) return [`${name} ${rule.note}`]
    if (!allows(rule, config.value(field))) throw unsupported(config, field, config.value(field), arch, rule.want)
    return []
  })

/** The named fields, all with one rule. */
export const fieldsOf = (rule: FieldRule, names: string): FieldTable =>
  Object.fromEntries(names.split(/\s+/).map(name => [name, rule]))
