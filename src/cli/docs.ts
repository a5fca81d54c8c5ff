/** docs/cli.md, made from the table of options. `npx tsx scripts/make-cli-docs.ts` writes it; a test holds the two equal. */

import { type CommandName, type CommandSpec, commandNames, commandTable, shorthands } from './command-table.ts'
import { configNames } from './config.ts'
import { exitTable } from './exits.ts'
import type { OptionSpec } from './option-spec.ts'
import { optionSpec, usedBy } from './options.ts'
import { flagsText } from './program.ts'

/** Command lines with what they do; a test parses each. */
export const examples: readonly (readonly [command: string, does: string])[] = [
  [
    'quantize model.safetensors --method gptq --bits 4 --group 128',
    'writes `model-gptq-4bit-g128/`, calibrated on the bundled text',
  ],
  ['quantize my-model --method rtn --bits 8 -o my-model-8bit', 'needs no calibration text'],
  ['quantize my-model --bits 4 --group 64 --asym --clip mse --calib domain.txt', 'on your own text'],
  ['quantize my-model --bits 4 --dry-run --json', 'the plan alone, for a script'],
  ['quantize my-model --wbits 4 --group_size 128 --desc_act --nsamples 256', "other tools' spellings"],
  ['quantize inspect my-model-8bit --json', 'what a checkpoint holds'],
  ['quantize compare my-model my-model-8bit --tolerance 0.01', 'whether any weight moved by more than that'],
  ['quantize formats', 'what can be written, and who loads it'],
  ['quantize verify my-model-8bit --source my-model', 'whether it is still what its report says'],
  [
    'quantize eval my-model-gptq-4bit-g128 --text held-out.txt --reference my-model',
    'perplexity, and how near the original is',
  ],
  [
    'quantize eval my-model --text held-out.txt --activations int8:asym,tensor --outliers 6.0',
    'perplexity with activations in 8 bits, all but those of outlier features',
  ],
]

const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('<', '&lt;')
const code = (text: string): string => `\`${text.replaceAll('|', '\\|')}\``

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => '---'), ...rows].map(cells => `| ${cells.join(' | ')} |`).join('\n')

const flagsCell = (spec: OptionSpec<unknown>): string =>
  spec.opposite ? `${code(flagsText(spec))}, ${code(`--${spec.opposite}`)}` : code(flagsText(spec))

const optionRow = (spec: OptionSpec<unknown>, command: CommandName): readonly string[] => [
  flagsCell(spec),
  cell(spec.help),
  spec.required ? 'required' : cell(spec.shownDefault ?? ''),
  (spec.aliases ?? []).map(name => code(`--${name}`)).join(', '),
  ...(command === 'quantize' ? [usedBy(spec)?.join(', ') ?? 'all'] : []),
]

const operandsText = (operands: readonly string[], argument: string): string =>
  operands.length === 0
    ? ''
    : `${operands.map(name => code(`<${name}>`)).join(' and ')} ${operands.length === 1 ? 'is' : 'are each'} ${argument}.`

const commandSection = (name: CommandName): string => {
  const { usage, summary, operands, argument, options }: CommandSpec = commandTable[name]
  const head = ['option', 'meaning', 'default', 'other spellings', ...(name === 'quantize' ? ['methods'] : [])]
  return [
    `## \`quantize ${usage}\``,
    [`${summary[0].toUpperCase()}${summary.slice(1)}.`, operandsText(operands, argument)].join(' ').trim(),
    table(
      head,
      options.map(key => optionRow(optionSpec(key), name)),
    ),
  ].join('\n\n')
}

const shorthandRows = shorthands.map(({ flag, shown, means }) => [
  code(`--${flag}${shown ? ` ${shown}` : ''}`),
  cell(means),
])

export const cliDocs = (): string =>
  [
    '# The command line',
    '<!-- Made by scripts/make-cli-docs.ts from src/cli/options.ts. Change it there. -->',
    '`quantize --help` and `quantize <command> --help` show the same options; `quantize --version` the version.',
    'Options may stand before or after the model, as `--bits 4` or `--bits=4`. In names `_` and `-` are alike; of an option given twice the last one counts. After `--` nothing is an option or a command. An option that is not known, or that the chosen method does not use, is an error.',
    ...commandNames.map(commandSection),
    '## Spellings that stand for an option with its value',
    table(['spelling', 'means'], shorthandRows),
    '## Output',
    'stdout carries data: with `--json` exactly one document; without it the tables of `inspect`, `eval`, `compare` and `formats`. stderr carries text for people: progress, the plan and the table of a run, warnings, errors. On a terminal progress is one bar with the time left, elsewhere plain lines. Colours need a terminal and no `NO_COLOR`.',
    'An error is one line, `error: …`; `--verbose` adds the stack. With `--json` stdout then holds `{"error": {"code", "message", "exitCode"}}`, unless the document of the command was already written: with a failed gate it was.',
    'The first Ctrl-C (or SIGTERM) stops after the linear under way, the second at once. A failed or interrupted run leaves nothing under the name of its output; what it had finished stays in `<output>.partial`, and the same command goes on from there, to the same bytes. It refuses when the model, the text, the options or the version are not the same, and names what changed; `--no-resume` starts over.',
    '## Exit codes',
    table(
      ['exit code', 'name in JSON', 'when'],
      exitTable.map(({ exitCode, name, when }) => [String(exitCode), name && code(name), cell(when)]),
    ),
    '## Examples',
    table(
      ['command', 'what it does'],
      examples.map(([command, does]) => [code(command), does]),
    ),
  ]
    .join('\n\n')
    .concat('\n')

/** JSON schema of the files of --config, from the table of options. */
export const recipeSchema = (): string => {
  const names = configNames()
  const specs = commandTable.quantize.options.map(optionSpec)
  const scalars = ['string', 'number', 'boolean']
  const shape = (spec: OptionSpec<unknown>): object => {
    if (!spec.value) return { type: 'boolean' }
    if (spec.repeats)
      return {
        type: ['string', 'array', 'object'],
        items: { type: 'string' },
        additionalProperties: { type: [...scalars, 'object'] },
      }
    const { words } = spec.value
    return words ? { enum: words } : { type: ['string', 'number', 'array'], items: { type: ['string', 'number'] } }
  }
  const described = (spec: OptionSpec<unknown>): object => ({
    description: spec.help,
    ...(spec.shownDefault ? { $comment: `default: ${spec.shownDefault}` } : {}),
  })
  const properties = specs.flatMap(spec => [
    ...[spec.flag, ...(spec.aliases ?? [])].map(name => [name, { ...described(spec), ...shape(spec) }] as const),
    ...(spec.opposite
      ? [[spec.opposite, { description: `the opposite of ${spec.flag}`, type: 'boolean' }] as const]
      : []),
  ])
  const others = shorthands.map(
    ({ flag, means, shown }) => [flag, { description: means, type: shown ? 'string' : 'boolean' }] as const,
  )
  const schema = {
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    title: 'Options of quantize, for --config',
    type: 'object',
    properties: Object.fromEntries([...properties, ...others].filter(([name]) => names.includes(name))),
    additionalProperties: false,
  }
  return `${JSON.stringify(schema, undefined, 2)}\n`
}
