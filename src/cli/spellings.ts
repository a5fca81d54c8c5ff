/** Spellings of options: aliases, the other side of a switch, shorthands, short flags. */
import { type Shorthand, shorthands } from './command-table.ts'
import type { OptionSpec } from './option-spec.ts'
import { type OptionKey, optionSpec, optionTable } from './options.ts'

type Meaning =
  | { readonly kind: 'option'; readonly spec: OptionSpec<unknown>; readonly flag: string }
  | { readonly kind: 'shorthand'; readonly shorthand: Shorthand }

/** What each long spelling stands for, in any command. */
export const meanings: ReadonlyMap<string, Meaning> = new Map([
  ...(Object.keys(optionTable) as OptionKey[])
    .map(optionSpec)
    .flatMap(spec => [
      ...[spec.flag, ...(spec.aliases ?? [])].map((name): [string, Meaning] => [
        name,
        { kind: 'option', spec, flag: spec.flag },
      ]),
      ...(spec.opposite ? [[spec.opposite, { kind: 'option', spec, flag: spec.opposite }] as [string, Meaning]] : []),
    ]),
  ...shorthands.map((shorthand): [string, Meaning] => [shorthand.flag, { kind: 'shorthand', shorthand }]),
])

export const shortFlags: ReadonlyMap<string, string> = new Map([
  ...(Object.keys(optionTable) as OptionKey[])
    .map(optionSpec)
    .flatMap(({ short, flag }): [string, string][] => (short ? [[short, flag]] : [])),
  ['h', 'help'],
  ['V', 'version'],
])

/** Whether an option, by any of its spellings, is more than a switch. */
export const takesValue = (flag: string): boolean => {
  const meaning = meanings.get(flag)
  if (!meaning) return false
  return meaning.kind === 'option' ? meaning.spec.value !== undefined : meaning.shorthand.shown !== undefined
}
