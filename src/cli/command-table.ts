/** The commands: what each takes and in which order its help says it, and the spellings that stand for several options. */

import type { OptionSpec } from './option-spec.ts'
import { type OptionKey, optionSpec, type optionTable } from './options.ts'
import { oneOf } from './values.ts'

/** The options that each command takes, in the order of its help. */
export const commandTable = {
  quantize: {
    usage: '<model> [options]',
    operands: ['model'],
    summary: 'quantize a checkpoint',
    argument: 'a .safetensors file, or a folder that holds one model',
    options: [
      ...([
        'output',
        'config',
        'method',
        'bits',
        'grid',
        'group',
        'symmetric',
        'transform',
        'alpha',
        'clip',
        'actOrder',
        'damp',
        'correct',
        'refine',
        'biasCorrection',
        'format',
      ] as const),
      ...([
        'headBits',
        'embedBits',
        'include',
        'exclude',
        'overrides',
        'activations',
        'activationScales',
        'restDtype',
      ] as const),
      ...([
        'groupFallback',
        'unfit',
        'nonfinite',
        'imatrix',
        'stats',
        'calib',
        'samples',
        'seqLen',
        'seed',
        'shardBytes',
        'threads',
        'maxMemory',
        'report',
      ] as const),
      ...(['strict', 'dryRun', 'overwrite', 'resume', 'json', 'quiet', 'verbose'] as const),
    ],
  },
  convert: {
    usage: 'convert <model> [options]',
    operands: ['model'],
    summary: 'decode a quantized checkpoint, or store the same codes in another format',
    argument: 'a quantized checkpoint: a folder, or a .safetensors file',
    options: [
      ...(['output', 'format', 'lossy', 'restDtype', 'unfit', 'shardBytes', 'threads', 'maxMemory', 'report'] as const),
      ...(['dryRun', 'overwrite', 'resume', 'json', 'quiet', 'verbose'] as const),
    ],
  },
  calibrate: {
    usage: 'calibrate <model> -o <file> [options]',
    operands: ['model'],
    summary:
      'write what the inputs of all linears look like: statistics for any method, or an importance matrix for llama.cpp',
    argument: 'a folder or a .gguf file, quantized or not; with --merge a file of statistics',
    options: [
      'statisticsOutput',
      'merge',
      'calib',
      'samples',
      'seqLen',
      'seed',
      'threads',
      'overwrite',
      'resume',
      'json',
      'quiet',
      'verbose',
    ],
  },
  inspect: {
    usage: 'inspect <model> [options]',
    operands: ['model'],
    summary:
      'tensors, dtypes, sizes, and what it is quantized with, from headers; with --stats what inputs and weights look like',
    argument: 'a .safetensors file or a folder, quantized or not',
    options: ['stats', 'json', 'verbose'],
  },
  eval: {
    usage: 'eval <model> --text <file> [options]',
    operands: ['model'],
    summary: 'perplexity of a text, and how near a reference model is',
    argument: 'a folder, quantized or not',
    options: [
      ...(['text', 'seqLen', 'windows', 'reference', 'activationScheme', 'stats', 'outliers'] as const),
      ...(['threads', 'json', 'quiet', 'verbose'] as const),
    ],
  },
  verify: {
    usage: 'verify <output> [options]',
    operands: ['model'],
    summary: 'read an output again: hashes of its files and, with --source, the errors of its report',
    argument: 'a folder that quantize wrote',
    options: ['source', 'threads', 'json', 'verbose'],
  },
  compare: {
    usage: 'compare <a> <b> [options]',
    operands: ['a', 'b'],
    summary:
      'two checkpoints tensor by tensor: SQNR, largest error and cosine of b against a, quantized weights decoded',
    argument: 'a .safetensors file or a folder, quantized or not',
    options: ['tolerance', 'json', 'quiet', 'verbose'],
  },
  methods: {
    usage: 'methods [options]',
    operands: [],
    summary: 'the methods: what each quantizes and how, whether it needs text, and which formats hold the result',
    argument: '',
    options: ['json', 'verbose'],
  },
  formats: {
    usage: 'formats [options]',
    operands: [],
    summary: 'the formats that are written and read: grids, bits, groups, and who loads them',
    argument: '',
    options: ['json', 'verbose'],
  },
} as const satisfies Record<string, CommandSpec>

export interface CommandSpec {
  readonly usage: string
  /** Names of the checkpoints that follow the command. */
  readonly operands: readonly string[]
  readonly summary: string
  /** What an operand is. */
  readonly argument: string
  readonly options: readonly OptionKey[]
}

export type CommandName = keyof typeof commandTable

export const commandNames = Object.keys(commandTable) as CommandName[]

/** Spellings that stand for an option with its value. */
export interface Shorthand {
  readonly flag: string
  readonly shown?: string
  readonly means: string
  /** The options meant, each as one argument. */
  expand(value: string, flag: string): readonly string[]
}

/** compressed-tensors' names of schemes, as options. */
const schemeOptions = {
  W2A16: ['--bits=2'],
  W3A16: ['--bits=3'],
  W4A16: ['--bits=4'],
  W8A16: ['--bits=8'],
  W8A8: ['--bits=8', '--group=channel', '--activations=int8'],
  FP8: ['--grid=fp8', '--group=channel', '--activations=fp8'],
  NVFP4A16: ['--grid=nvfp4'],
  MXFP4A16: ['--grid=mxfp4'],
} as const

const schemes = oneOf(...(Object.keys(schemeOptions) as (keyof typeof schemeOptions)[]))

export const shorthands: readonly Shorthand[] = [
  { flag: 'desc-act', means: '--act-order g_idx', expand: () => ['--act-order=g_idx'] },
  {
    flag: 'scheme',
    shown: schemes.shown,
    means:
      '--bits with the number after W; W8A8 and FP8: a scale a channel and --activations as well; NVFP4A16, MXFP4A16: --grid',
    expand: (value, flag) => schemeOptions[schemes.parse(value, flag)],
  },
]

type ValueOf<S> = S extends OptionSpec<infer T> ? T : never

/** The values of a command's options: complete, checked; undefined only where the table has no default. */
export type OptionsOf<C extends CommandName> = {
  readonly [K in (typeof commandTable)[C]['options'][number]]: ValueOf<(typeof optionTable)[K]>
}

/** The operands of a command, by name. */
export type OperandsOf<C extends CommandName> = {
  readonly [K in (typeof commandTable)[C]['operands'][number]]: string
}

/** All flags that a command knows: canonical ones first, then aliases and shorthands. */
export const flagsOf = (command: CommandName): readonly string[] => {
  const specs = commandTable[command].options.map(optionSpec)
  const own = specs.flatMap(spec => [spec.flag, ...(spec.opposite ? [spec.opposite] : [])])
  const others = specs.flatMap(spec => spec.aliases ?? [])
  return [...own, ...others, ...(command === 'quantize' ? shorthands.map(({ flag }) => flag) : []), 'help', 'version']
}

/** How a command is called, for messages. */
export const usageOf = (command: CommandName): string => `usage: quantize ${commandTable[command].usage}`
