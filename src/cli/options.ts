/**
 * The one table of options: commander, the help text, the defaults and docs/cli.md are made from it. What depends on the method
 * has no default here; the presets of src/method give it, and the help shows theirs.
 */
import type { ActivationObserver, ActOrder, ClipName, Refinement, TransformName } from '../contracts.ts'
import { formatNames } from '../format/index.ts'
import { gridNames, gridPresets } from '../method/grids.ts'
import { type MethodName, methods } from '../method/index.ts'
import { defaults, type Override } from '../recipe.ts'
import { flag, methodsUsing, type OptionSpec, optional, preset, required, withDefault } from './option-spec.ts'
import {
  activationScheme,
  amount,
  calibrationText,
  codeBits,
  declaredInputs,
  either,
  fraction,
  glob,
  gridName,
  groupSize,
  listOf,
  oneOf,
  outputFolder,
  override,
  path,
  size,
  threshold,
  weightDtype,
  wholeNumber,
} from './values.ts'

export const optionTable = {
  output: optional(outputFolder, '<model>-<method>-<bits>bit-g<group>', {
    flag: 'output',
    short: 'o',
    aliases: ['output-dir'],
    help: 'folder for the checkpoint; it must not exist',
  }),
  method: withDefault(oneOf(...(Object.keys(methods) as MethodName[])), defaults.method, {
    flag: 'method',
    aliases: ['algorithm', 'quant-method'],
    help: Object.values(methods)
      .map(method => `${method.name}: ${method.summary}`)
      .join('; '),
  }),
  config: optional(path('<file.yaml>'), 'none', {
    flag: 'config',
    aliases: ['recipe'],
    help: 'a YAML or JSON file of options by their names, without --; those of the command line win (docs/recipe.md)',
  }),
  bits: optional(
    codeBits,
    preset(method => method.bits),
    {
      flag: 'bits',
      aliases: ['q-bits', 'w-bit', 'wbits', 'nbits'],
      help: 'bits of a code',
    },
  ),
  group: optional(
    groupSize,
    preset(method => method.group),
    {
      flag: 'group',
      aliases: ['group-size', 'q-group-size', 'groupsize'],
      help: 'weights that share a scale: a number of inputs, channel (or -1): a whole row, tensor, or block: squares of 128 x 128',
    },
  ),
  symmetric: {
    flag: 'sym',
    opposite: 'asym',
    fallback: undefined,
    shownDefault: preset(method => (method.symmetric ? 'sym' : 'asym')),
    help: 'zero point in the middle of the codes (sym), or fitted to each group (asym)',
  } as OptionSpec<boolean | undefined>,
  groupFallback: flag({
    flag: 'group-fallback',
    help: 'where the group does not divide the inputs of a linear, use their largest divisor not above it',
  }),
  transform: optional(
    oneOf<TransformName>('none', 'awq', 'smoothquant'),
    preset(method => method.transform),
    {
      flag: 'transform',
      help: 'before rounding, weights scaled against their producers, the same function as before: by searched scales (awq), or so that activations lose their outliers (smoothquant)',
    },
  ),
  alpha: optional(either(fraction, 'search'), '0.5', {
    flag: 'alpha',
    aliases: ['smoothing-strength'],
    help: 'of smoothquant: how much of the range of activations moves into weights, from 0 to 1; or the best for each input, by its error (search)',
  }),
  clip: optional(
    oneOf<ClipName>('minmax', 'mse', 'awq'),
    preset(method => method.clip),
    {
      flag: 'clip',
      help: 'range of a group: its extremes, the range of least squared error (mse), or the cut that its outputs lose least by (awq: needs text)',
    },
  ),
  actOrder: optional(
    oneOf<ActOrder>('none', 'static', 'g_idx'),
    preset(method => method.actOrder, 'feedback'),
    {
      flag: 'act-order',
      needs: 'feedback',
      help: 'order of the columns: as stored; by activation, groups as stored (static); or groups by activation too (g_idx)',
    },
  ),
  damp: optional(
    fraction,
    preset(method => method.damp, 'feedback'),
    {
      flag: 'damp',
      aliases: ['damp-percent', 'percdamp', 'dampening-frac'],
      needs: 'feedback',
      help: 'fraction of the mean diagonal added to the Gram matrix; raised by itself where that does not suffice',
    },
  ),
  correct: optional(fraction, `${preset(method => method.correct, 'feedback')} (gguf: 0.5)`, {
    flag: 'correct',
    needs: 'feedback',
    help: 'how far weights move, from 0 to 1, to make up for what quantizing the linears before them changed; takes a second pass beside the first',
  }),
  refine: optional(oneOf<Refinement>('none', 'cd'), `${preset(method => method.refine, 'feedback')} (gguf: cd)`, {
    flag: 'refine',
    needs: 'feedback',
    help: 'after error feedback: nothing, or coordinate descent on codes and scales (cd)',
  }),
  biasCorrection: flag({
    flag: 'bias-correction',
    help: 'add to the bias of each quantized linear what rounding its weights takes from the mean of its outputs: needs text or --stats',
  }),
  grid: optional(gridName, 'int', {
    flag: 'grid',
    aliases: ['quant-type', 'data-type'],
    help: `values that a code can stand for: ${gridNames.map(name => `${name}: ${gridPresets[name].summary}`).join('; ')}`,
  }),
  headBits: optional(either(codeBits, 'none'), 'the head stays as it is (mlx: --bits)', {
    flag: 'head-bits',
    aliases: ['lm-head-bits'],
    help: 'quantize the output head too, to nearest',
  }),
  embedBits: optional(either(codeBits, 'none'), 'the embedding stays as it is (mlx: --bits)', {
    flag: 'embed-bits',
    aliases: ['embedding-bits'],
    help: 'quantize the embedding too, to nearest',
  }),
  include: optional(listOf(glob), 'all linears of blocks', {
    flag: 'include',
    help: 'quantize only linears whose module name matches one of these patterns (* any characters, ? one)',
  }),
  exclude: optional(listOf(glob), '', {
    flag: 'exclude',
    aliases: ['ignore', 'modules-to-not-convert'],
    help: 'leave linears that match one of these patterns as they are',
  }),
  overrides: {
    value: override,
    fallback: [],
    repeats: true,
    flag: 'override',
    help: 'another scheme for the linears that match; may be given several times, the last that matches counts',
  } as OptionSpec<readonly Override[]>,
  activations: optional(either(declaredInputs, 'none'), 'none (smoothquant: int8)', {
    flag: 'activations',
    help: 'declare that the runtime quantizes what linears read (compressed-tensors): int8, each token by its own scale, int8:asym with a zero point as well, int8:group=N with a scale for N inputs of a token; or fp8',
  }),
  activationScales: withDefault(
    oneOf<ActivationObserver>('dynamic', 'minmax', 'mse', 'percentile'),
    'dynamic' as ActivationObserver,
    {
      flag: 'activation-scales',
      help: 'of quantized inputs: a scale for each token as it comes, or one stored for the tensor: from the extremes of calibration text, by least squared error, or over 99.99 % of the values',
    },
  ),
  restDtype: optional(weightDtype, 'as they are', {
    flag: 'dtype',
    help: 'dtype of the tensors that stay unquantized',
  }),
  format: optional(
    listOf({ ...oneOf(...formatNames), shown: '<format>' }),
    `${preset(({ format }) => (format.symmetric === format.asymmetric ? format.symmetric : `${format.symmetric} (with --asym ${format.asymmetric})`))}; convert: safetensors`,
    {
      flag: 'format',
      help: 'how the checkpoint stores the codes, one of `quantize formats`; several make several outputs',
    },
  ),
  lossy: flag({
    flag: 'lossy',
    help: 'round to nearest what the format does not hold exactly, instead of stopping',
  }),
  unfit: withDefault(oneOf<'keep' | 'error'>('keep', 'error'), defaults.unfit, {
    flag: 'unfit',
    help: 'a linear that the format cannot hold: leave it unquantized and list it, or stop',
  }),
  nonfinite: withDefault(oneOf<'error' | 'zero'>('error', 'zero'), defaults.nonfinite, {
    flag: 'nonfinite',
    help: 'a weight or activation that is NaN or infinite: stop, or take 0 and count it in the report',
  }),
  imatrix: optional(path('<file>'), 'none', {
    flag: 'imatrix',
    aliases: ['importance-matrix'],
    help: "an importance matrix of llama.cpp, by which GGUF's types weigh their errors; calibrate makes one",
  }),
  statisticsOutput: required(path('<file>'), {
    flag: 'output',
    short: 'o',
    help: 'the file to write: .safetensors for --stats, .gguf for llama.cpp, or .dat for old versions of it',
  }),
  merge: {
    value: listOf(path('<file>')),
    fallback: [],
    repeats: true,
    flag: 'merge',
    help: 'run no model: add up statistics of one model, these files and the last one named',
  } as OptionSpec<readonly string[]>,
  stats: optional(path('<file>'), 'none', {
    flag: 'stats',
    aliases: ['statistics'],
    help: 'statistics of this model that calibrate wrote. quantize: run no text; with a method that needs none, the report then has output errors',
  }),
  calib: withDefault(calibrationText, defaults.calib, {
    flag: 'calib',
    aliases: ['calibration-file'],
    needs: 'data',
    help: 'calibration text; a .jsonl file has one document a line',
  }),
  samples: withDefault(wholeNumber(1, 1_000_000), defaults.samples, {
    flag: 'samples',
    aliases: ['nsamples', 'num-samples', 'calib-size', 'max-calib-samples'],
    needs: 'data',
    help: 'windows of calibration text',
  }),
  seqLen: withDefault(wholeNumber(2, 1_048_576), defaults.seqLen, {
    flag: 'seq-len',
    aliases: ['seqlen', 'max-seq-length', 'sequence-length', 'calib-seq'],
    needs: 'data',
    help: 'tokens of a window',
  }),
  seed: withDefault(wholeNumber(0, 4_294_967_295), defaults.seed, {
    flag: 'seed',
    needs: 'data',
    help: 'chooses the windows',
  }),
  shardBytes: withDefault(
    size,
    defaults.shardBytes,
    {
      flag: 'shard-size',
      aliases: ['max-shard-size'],
      help: 'largest weight file (GB: 10^9 bytes, GiB: 2^30)',
    },
    `${defaults.shardBytes / 1e9}GB`,
  ),
  text: required(path('<file>'), { flag: 'text', help: 'text to score; line ends are read as \\n' }),
  windows: withDefault(wholeNumber(1, 1_000_000), 8, { flag: 'windows', help: 'windows of the text, from its start' }),
  activationScheme: optional(either(activationScheme, 'none'), 'as the checkpoint declares, or its runtime does', {
    flag: 'activations',
    help: 'quantize what the linears of blocks read: int8, int4, fp8, nvfp4, mxfp4 or mxfp8; after a colon sym or asym, and token, tensor (a scale a sequence), group=N or static (one scale, from --stats; static=mse, static=percentile), as in int8:asym,tensor; none: leave it as it is, the head too',
  }),
  outliers: optional(threshold, 'none', {
    flag: 'outliers',
    help: 'beside --activations: features that reach this magnitude in any token of a sequence stay unquantized (LLM.int8(): 6.0)',
  }),
  source: optional(path('<model>'), '', {
    flag: 'source',
    help: 'the model that was quantized: compute the errors of the weights again, and compare what was kept',
  }),
  reference: optional(path('<model>'), '', {
    flag: 'reference',
    help: 'also compare with this model: mean KL divergence and top-1 agreement',
  }),
  tolerance: optional(amount, 'none: exit with 0', {
    flag: 'tolerance',
    aliases: ['atol'],
    help: 'exit with 1 if a value of b differs from that of a by more than this, absolutely, or a tensor is missing; 0: all must be equal',
  }),
  threads: optional(wholeNumber(1, 1024), 'all cores', {
    flag: 'threads',
    aliases: ['num-threads', 'nthreads'],
    help: 'threads that compute',
  }),
  maxMemory: optional(size, '80 % of the machine, or of its cgroup', {
    flag: 'max-memory',
    help: 'memory that the run may take; what does not fit lies in a temporary file beside the output, and the bytes are the same',
  }),
  report: optional(path('<path>'), 'quantize-report.json in the output', {
    flag: 'report',
    help: 'where to write the report as well',
  }),
  strict: flag({ flag: 'strict', help: 'exit with 1 if any linear fell back to rtn' }),
  dryRun: flag({ flag: 'dry-run', help: 'print the plan, from headers alone, and write nothing' }),
  overwrite: flag({ flag: 'overwrite', aliases: ['force'], help: 'replace an output that exists' }),
  /** Its value is false when the flag is given, as commander has it. */
  resume: {
    flag: 'no-resume',
    fallback: true,
    help: 'start over, instead of going on with a run of this command that was cut off',
  } as OptionSpec<boolean>,
  json: flag({ flag: 'json', help: 'one JSON document on stdout' }),
  quiet: flag({ flag: 'quiet', help: 'no progress and no table; warnings and errors stay' }),
  verbose: flag({ flag: 'verbose', help: 'say more; an error shows its stack' }),
} satisfies Record<string, OptionSpec<unknown>>

export type OptionKey = keyof typeof optionTable

/** An option of the table by its key, seen without its type. */
export const optionSpec = (key: OptionKey): OptionSpec<unknown> => optionTable[key]

/** The methods that use an option, by name; undefined where all do. */
export const usedBy = ({ needs }: OptionSpec<unknown>): readonly MethodName[] | undefined =>
  needs && methodsUsing(needs).map(({ name }) => name)
