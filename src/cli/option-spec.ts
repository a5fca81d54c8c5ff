/** What an option is, and how the table of options says it. */
import { type Method, methods, needsText, type Parts } from '../method/index.ts'
import { defaults } from '../recipe.ts'
import type { ValueKind } from './values.ts'

/** What a method must do for an option to matter. */
export type Need = 'data' | 'feedback'

/** Why an option of each need has no effect with a method; undefined where it has. */
export const idleReason: Readonly<Record<Need, (method: Method & Parts) => string | undefined>> = {
  data: method => (needsText(method) ? undefined : 'it needs no data'),
  feedback: method => (method.rounding === 'nearest' ? 'it rounds each weight to nearest' : undefined),
}

/** The methods to which an option of this need matters. */
export const methodsUsing = (need: Need | undefined): readonly Method[] =>
  Object.values(methods).filter(method => need === undefined || idleReason[need](method) === undefined)

interface Described {
  readonly flag: string
  readonly help: string
  readonly short?: string
  /** Other spellings of the flag; `_` and `-` are alike. */
  readonly aliases?: readonly string[]
  /** Absent: every method uses it. */
  readonly needs?: Need
}

export interface OptionSpec<T> extends Described {
  /** Absent: a switch. */
  readonly value?: ValueKind<T>
  /** For a switch with two sides: the flag that says no. */
  readonly opposite?: string
  readonly fallback: T | undefined
  /** The default as people read it. */
  readonly shownDefault?: string
  readonly required?: true
  /** Given several times, all values count: those of a list follow each other. */
  readonly repeats?: true
}

/** An option with a default, shown as people would type it. */
export const withDefault = <T>(
  value: ValueKind<T>,
  fallback: T,
  described: Described,
  shownDefault = String(fallback),
): OptionSpec<T> => ({ ...described, value, fallback, shownDefault })

/** An option that may be absent; `shownDefault` says what happens then. */
export const optional = <T>(
  value: ValueKind<T>,
  shownDefault: string,
  described: Described,
): OptionSpec<T | undefined> => ({
  ...described,
  value,
  fallback: undefined,
  shownDefault: shownDefault || undefined,
})

export const required = <T>(value: ValueKind<T>, described: Described): OptionSpec<T> => ({
  ...described,
  value,
  fallback: undefined,
  required: true,
})

export const flag = (described: Described): OptionSpec<boolean> => ({ ...described, fallback: false })

/** What the presets choose, among the methods to which it matters: the default method's choice, then those that differ, by name. */
export const preset = (choice: (method: Method) => string | number, needs?: Need): string => {
  const byValue = new Map<string | number, string[]>()
  for (const method of methodsUsing(needs)) {
    const value = choice(method)
    byValue.set(value, [...(byValue.get(value) ?? []), method.name])
  }
  const usual = choice(methods[defaults.method])
  const others = [...byValue].filter(([value]) => value !== usual)
  if (others.length === 0) return String(usual)
  return `${usual} (${others.map(([value, names]) => `${names.join(', ')}: ${value}`).join('; ')})`
}
