/** Spellings made one, before commander sees them: aliases, `_` for `-`, shorthands, options before or after the model. */
import { QuantizeError } from '../errors.ts'
import { nearestName } from '../nearest.ts'
import { type CommandName, commandNames, commandTable, flagsOf, usageOf } from './command-table.ts'
import { readConfig, type Typed } from './config.ts'
import { optionSpec } from './options.ts'
import { meanings, shortFlags, takesValue } from './spellings.ts'

export interface NormalArguments {
  readonly command: CommandName
  /** Canonical options; a value is joined to its flag by `=`. */
  readonly options: readonly string[]
  /** What is not an option, without the command's name. */
  readonly operands: readonly string[]
  /** Help or the version was asked for: nothing else matters then. */
  readonly wants?: 'help' | 'version'
}

/** The text of a file of options. */
export type ReadText = (path: string) => string

/** @throws QuantizeError bad-option: an unknown option, an option without its value, a value for a switch; as readConfig */
export function normaliseArguments(args: readonly string[], readText: ReadText): NormalArguments {
  const { typed, operands } = split(args)
  const named = commandNames.find(name => name !== 'quantize' && name === operands[0]?.text && !operands[0].literal)
  const asksHelp = operands[0]?.text === 'help' && !operands[0].literal
  const topic = asksHelp ? commandNames.find(name => name === operands[1]?.text) : named
  const command = topic ?? 'quantize'
  const wants =
    asksHelp || typed.some(({ flag }) => flag === 'help')
      ? 'help'
      : typed.some(({ flag }) => flag === 'version')
        ? 'version'
        : undefined
  if (wants) return { command, options: [], operands: [], wants }
  return {
    command,
    options: (command === 'quantize' ? withConfig(typed, readText) : typed).flatMap(option =>
      canonical(option, command),
    ),
    operands: operands.slice(named ? 1 : 0).map(({ text }) => text),
  }
}

/** What two spellings of one option, and the two sides of a switch, have in common. */
const optionOf = (flag: string): string => {
  const meaning = meanings.get(flag)
  return meaning?.kind === 'option' ? meaning.spec.flag : flag
}

/** Whether values of an option add up, instead of the last one counting. */
const addsUp = (flag: string): boolean => {
  const meaning = meanings.get(flag)
  return meaning?.kind === 'option' && meaning.spec.repeats === true
}

/** Options of `--config` files come first; those that the command line has, too, count there only, but for those that add up. */
const withConfig = (typed: readonly Typed[], readText: ReadText): readonly Typed[] => {
  const isFile = ({ flag, value }: Typed): boolean => optionOf(flag) === 'config' && value !== undefined
  const own = typed.filter(option => !isFile(option))
  const given = new Set(own.map(({ flag }) => optionOf(flag)))
  const fromFiles = typed
    .filter(isFile)
    .flatMap(({ value }) => readConfig(readText(value!), value!))
    .filter(({ flag }) => addsUp(flag) || !given.has(optionOf(flag)))
  return [...fromFiles, ...own]
}

/** `literal`: after `--`, where even `inspect` is a model's name. */
interface Operand {
  readonly text: string
  readonly literal: boolean
}

const split = (args: readonly string[]): { typed: Typed[]; operands: Operand[] } => {
  const typed: Typed[] = []
  const operands: Operand[] = []
  for (let index = 0; index < args.length; index++) {
    const argument = args[index]
    if (argument === '--') {
      operands.push(...args.slice(index + 1).map(text => ({ text, literal: true })))
      break
    }
    if (!argument.startsWith('-') || argument === '-') operands.push({ text: argument, literal: false })
    else {
      const option = argument.startsWith('--') ? readLong(argument) : readShort(argument)
      const missing = takesValue(option.flag) && option.value === undefined
      typed.push(missing && index + 1 < args.length ? { flag: option.flag, value: args[++index] } : option)
    }
  }
  return { typed, operands }
}

const readLong = (argument: string): Typed => {
  const [, name, value] = /^--([^=]*)(?:=(.*))?$/s.exec(argument)!
  return { flag: name.replaceAll('_', '-'), value }
}

/** `-o folder` and `-ofolder`; short switches are not bundled. */
const readShort = (argument: string): Typed => {
  const flag = shortFlags.get(argument[1])
  const rest = argument.slice(2)
  if (flag === undefined || (rest !== '' && !takesValue(flag))) {
    throw new QuantizeError('bad-option', `${argument}: not an option; see quantize --help`)
  }
  return { flag, value: rest === '' ? undefined : rest }
}

/** The value of an option as this command takes it: two may have options of one name. */
const shownOf = (flag: string, command: CommandName): string | undefined =>
  commandTable[command].options.map(optionSpec).find(spec => spec.flag === flag)?.value?.shown

const canonical = ({ flag, value }: Typed, command: CommandName): readonly string[] => {
  const meaning = meanings.get(flag)
  if (!meaning || !flagsOf(command).includes(flag)) throw unknownOption(flag, command)
  if (takesValue(flag)) {
    const shown = meaning.kind === 'option' ? shownOf(meaning.spec.flag, command) : meaning.shorthand.shown
    if (value === undefined) throw new QuantizeError('bad-option', `--${flag} needs a value: --${flag} ${shown}`)
    return meaning.kind === 'option' ? [`--${meaning.flag}=${value}`] : meaning.shorthand.expand(value, flag)
  }
  if (value !== undefined) throw new QuantizeError('bad-option', `--${flag} takes no value; got ${value}`)
  return meaning.kind === 'option' ? [`--${meaning.flag}`] : meaning.shorthand.expand('', flag)
}

const unknownOption = (flag: string, command: CommandName): QuantizeError => {
  const owner = commandNames.find(name => flagsOf(name).includes(flag))
  if (owner) {
    const other = owner === 'quantize' ? 'quantizing' : `quantize ${owner}`
    const here = command === 'quantize' ? 'quantizing' : `quantize ${command}`
    return new QuantizeError('bad-option', `--${flag} is an option of ${other}, not of ${here}; ${usageOf(command)}`)
  }
  const nearest = nearestName(flag, flagsOf(command))
  const hint = nearest ? `the nearest is --${nearest}` : usageOf(command)
  return new QuantizeError('bad-option', `--${flag}: no such option; ${hint}`)
}
