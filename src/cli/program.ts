/** The table of options as commander commands; defaults are filled in by parse.ts. Nothing here prints or exits. */
import { Argument, Command, Option } from 'commander'
import { type CommandName, type CommandSpec, commandNames, commandTable } from './command-table.ts'
import type { OptionSpec } from './option-spec.ts'
import { optionSpec, usedBy } from './options.ts'

/** An option as people write it: `-o, --output <folder>`. */
export const flagsText = (spec: OptionSpec<unknown>): string =>
  `${spec.short ? `-${spec.short}, ` : ''}--${spec.flag}${spec.value ? ` ${spec.value.shown}` : ''}`

/** A key of the table's options as commander stores it. */
export const attributeOf = (flag: string): string => new Option(`--${flag}`).attributeName()

const describe = (spec: OptionSpec<unknown>, command: CommandName): string => {
  const users = command === 'quantize' ? usedBy(spec) : undefined
  return [
    spec.help,
    ...(users ? [`(${users.join(', ')} only)`] : []),
    ...(spec.required ? ['(required)'] : []),
    ...(spec.shownDefault ? [`(default: ${spec.shownDefault})`] : []),
  ].join(' ')
}

const makeOptions = (spec: OptionSpec<unknown>, command: CommandName): Option[] => {
  const option = new Option(flagsText(spec), describe(spec, command))
  const { value } = spec
  if (value && spec.repeats)
    option.argParser<unknown[]>((text, earlier) => [...(earlier ?? []), ...(value.parse(text, spec.flag) as unknown[])])
  else if (value) option.argParser(text => value.parse(text, spec.flag))
  return spec.opposite ? [option, new Option(`--${spec.opposite}`, `the opposite of --${spec.flag}`)] : [option]
}

const moreHelp = (command: CommandName): string =>
  command === 'quantize'
    ? [
        '',
        'Commands:',
        ...commandNames
          .filter(name => name !== 'quantize')
          .map(name => `  quantize ${commandTable[name].usage}\n      ${commandTable[name].summary}`),
        '',
        'Example:',
        '  quantize model.safetensors --method gptq --bits 4 --group 128',
        '',
        'Spellings of other tools (--group-size, --wbits, --nsamples, ...) and exit codes: docs/cli.md',
      ].join('\n')
    : ''

/** @param columns width to wrap the help to */
export const makeCommand = (name: CommandName, columns = 100): Command => {
  const { usage, summary, operands, argument, options }: CommandSpec = commandTable[name]
  const command = new Command('quantize')
    .usage(usage)
    .description(summary)
    .allowExcessArguments(false)
    .exitOverride()
    .configureOutput({ writeOut: () => {}, writeErr: () => {} })
    .configureHelp({ helpWidth: Math.max(60, columns) })
    .helpOption('-h, --help', 'show this help')
    .addHelpText('after', moreHelp(name))
  for (const operand of operands) command.addArgument(new Argument(`<${operand}>`, argument))
  for (const key of options) for (const option of makeOptions(optionSpec(key), name)) command.addOption(option)
  return command.addOption(new Option('-V, --version', 'print the version'))
}

/** The help page of a command. */
export function helpText(name: CommandName, columns?: number): string {
  let text = ''
  const command = makeCommand(name, columns).configureOutput({
    writeOut: part => {
      text += part
    },
  })
  command.outputHelp()
  return text
}
