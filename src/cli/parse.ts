/** Arguments → a plain, complete, checked object. Nothing is read but the file of --config, nothing printed or exited. */
import { CommanderError } from 'commander'
import { QuantizeError } from '../errors.ts'
import { nodeFiles } from '../io/files.ts'
import { methods } from '../method/index.ts'
import { nearestName } from '../nearest.ts'
import { normaliseArguments, type ReadText } from './arguments.ts'
import {
  type CommandName,
  commandNames,
  commandTable,
  type OperandsOf,
  type OptionsOf,
  usageOf,
} from './command-table.ts'
import { idleReason } from './option-spec.ts'
import { type OptionKey, optionSpec } from './options.ts'
import { attributeOf, makeCommand } from './program.ts'

interface Asked {
  /** Keys of the options that the user gave; the rest are defaults. */
  readonly explicit: ReadonlySet<OptionKey>
}

type Given<C extends CommandName> = Asked & OperandsOf<C> & OptionsOf<C>

export type QuantizeOptions = Given<'quantize'>
export type ConvertOptions = Given<'convert'>
export type CalibrateOptions = Given<'calibrate'>
export type InspectOptions = Given<'inspect'>
export type EvalOptions = Given<'eval'>
export type VerifyOptions = Given<'verify'>
export type CompareOptions = Given<'compare'>
export type MethodsOptions = Given<'methods'>
export type FormatsOptions = Given<'formats'>

/** A command with its options. */
export type Job =
  | { readonly command: 'quantize'; readonly options: QuantizeOptions }
  | { readonly command: 'convert'; readonly options: ConvertOptions }
  | { readonly command: 'calibrate'; readonly options: CalibrateOptions }
  | { readonly command: 'inspect'; readonly options: InspectOptions }
  | { readonly command: 'eval'; readonly options: EvalOptions }
  | { readonly command: 'verify'; readonly options: VerifyOptions }
  | { readonly command: 'compare'; readonly options: CompareOptions }
  | { readonly command: 'methods'; readonly options: MethodsOptions }
  | { readonly command: 'formats'; readonly options: FormatsOptions }

export type Parsed = Job | { readonly command: 'help'; readonly topic: CommandName } | { readonly command: 'version' }

const usage = (message: string): QuantizeError => new QuantizeError('bad-option', message)

const maxConfigBytes = 2 ** 20

const readConfigText: ReadText = path => nodeFiles.readText(path, maxConfigBytes)

/**
 * @param args what follows the program's name
 * @throws QuantizeError bad-option, naming the nearest valid option or value; unsupported for inputs of later versions
 */
export function parse(args: readonly string[], readText: ReadText = readConfigText): Parsed {
  const { command, options, operands, wants } = normaliseArguments(args, readText)
  if (wants) return wants === 'version' ? { command: 'version' } : { command: 'help', topic: command }
  const models = theModels(command, operands)
  const { values, explicit } = readOptions(command, [...options, '--', ...Object.values(models)])
  if (explicit.has('quiet') && explicit.has('verbose'))
    throw usage('--quiet and --verbose contradict each other; give one')
  // `values` was filled from the same table that OptionsOf is derived from.
  const job = { command, options: { ...models, explicit, ...values } } as unknown as Job
  if (job.command === 'quantize') checkUse(job.options)
  if (job.command === 'eval') checkEval(job.options)
  return job
}

const taken = ['no model is', 'one model is', 'two models are']

/** The operands by name. */
const theModels = (command: CommandName, operands: readonly string[]): Readonly<Record<string, string>> => {
  const names: readonly string[] = commandTable[command].operands
  const missing = names.find((_, i) => !operands[i])
  if (missing !== undefined) {
    const what = names.length === 1 ? 'no model' : `no <${missing}>`
    throw usage(`${what} given; ${usageOf(command)}, or quantize --help`)
  }
  if (operands.length > names.length) {
    const meant = command === 'quantize' ? nearestName(operands[0], commandNames) : undefined
    const excess = operands[names.length]
    const hint = meant ? `${operands[0]} is not a command (the nearest is ${meant})` : `what is ${excess}?`
    const given = operands.length === 1 ? '1 argument was' : `${operands.length} arguments were`
    throw usage(`${taken[names.length]} taken, and ${given} given: ${hint}; ${usageOf(command)}`)
  }
  return Object.fromEntries(names.map((name, i) => [name, checkedModel(operands[i])]))
}

const checkedModel = (model: string): string => {
  if (model === '-')
    throw new QuantizeError('unsupported', '-: a model is not read from stdin yet; name a file or folder')
  if (/^hf:/i.test(model)) {
    throw new QuantizeError(
      'unsupported',
      `${model}: models are not downloaded yet; name a file or folder on this machine`,
    )
  }
  return model
}

const readOptions = (command: CommandName, args: readonly string[]) => {
  const program = makeCommand(command)
  try {
    program.parse(args, { from: 'user' })
  } catch (error) {
    if (error instanceof CommanderError) throw usage(`${error.message.replace(/^error: /, '')}; see quantize --help`)
    throw error
  }
  const given = (flag: string) => program.getOptionValueSource(attributeOf(flag)) === 'cli'
  const values: Record<string, unknown> = {}
  const explicit = new Set<OptionKey>()
  for (const key of commandTable[command].options) {
    const spec = optionSpec(key)
    const no = spec.opposite !== undefined && given(spec.opposite)
    if (no && given(spec.flag)) throw usage(`--${spec.flag} and --${spec.opposite} contradict each other; give one`)
    if (no || given(spec.flag)) explicit.add(key)
    else if (spec.required) throw usage(`--${spec.flag} ${spec.value?.shown} is needed; ${usageOf(command)}`)
    values[key] = no ? false : (program.getOptionValue(attributeOf(spec.flag)) ?? spec.fallback)
  }
  return { values, explicit }
}

/** An option that the method does not use is an error: accepted and ignored, it would mislead. */
const checkUse = ({ method: name, explicit, ...asked }: QuantizeOptions): void => {
  const preset = methods[name]
  const { transform = preset.transform, clip = preset.clip, activationScales, biasCorrection } = asked
  const method = { ...preset, transform, clip, activationScales, biasCorrection }
  for (const key of explicit) {
    const { flag, needs } = optionSpec(key)
    const reason = needs && idleReason[needs](method)
    if (reason) throw usage(`--${flag} has no effect with --method ${name} (${reason}); leave it out`)
  }
}

/** Options of eval that have an effect only beside others. */
const checkEval = (options: EvalOptions): void => {
  checkOutliers(options)
  checkStats(options)
}

const checkStats = ({ activationScheme, stats }: EvalOptions): void => {
  const isStatic = typeof activationScheme === 'object' && !activationScheme.dynamic
  if (isStatic && stats === undefined)
    throw usage('--activations …:static takes its scales from statistics of the model; give --stats too')
  if (!isStatic && stats !== undefined)
    throw usage('--stats gives scales to --activations int8:static; without that it has no effect: leave it out')
}

const checkOutliers = ({ activationScheme, outliers }: EvalOptions): void => {
  if (outliers === undefined || typeof activationScheme === 'object') return
  throw usage(
    `--outliers leaves features out of --activations, ${activationScheme ? 'which is none' : 'which is not given'}; use --activations int8, or leave it out`,
  )
}
