/** Whether an output is still what its report says, from the bytes on disk alone. */
import { basename, join } from 'node:path'
import { modelConfigs } from './checkpoint/beside.ts'
import { castSource } from './checkpoint/cast-source.ts'
import { finiteSource } from './checkpoint/finite-source.ts'
import { openCheckpoint } from './checkpoint/open-checkpoint.ts'
import { hashTensor } from './checkpoint/tensor-pieces.ts'
import type { Checkpoint, Configs, QuantizedLinear, TensorSource } from './contracts.ts'
import { openDecoded } from './decoded-checkpoint.ts'
import { fromBase64 } from './dtype/base64.ts'
import { isFloat, isWeightDtype } from './dtype/convert.ts'
import type { Dtype, WeightDtype } from './dtype/dtype.ts'
import { measureRows } from './engine/kernel/measure.ts'
import { matrixOf } from './engine/kernel/panels.ts'
import type { Kernels } from './engine/kernel/pool.ts'
import { QuantizeError } from './errors.ts'
import { configFiles, detectFormat, formats } from './format/index.ts'
import type { Files } from './io/files.ts'
import { printable } from './io/printable.ts'
import { product } from './io/size.ts'
import { filesIn, hashFile } from './io/whole-file.ts'
import { changeOf, rootMeanSquare, shiftedBias } from './quantize/bias-correction.ts'
import { maxReportBytes, parseReport, reportName } from './report/json.ts'
import { weightError } from './report/measure.ts'
import type { CorrectedReport, LinearReport, Report } from './report/schema.ts'
import { applyScales } from './transform/apply.ts'
import { isFinitePositive } from './transform/factors.ts'
import { channelsBehind } from './transform/fold.ts'
import { scaledCheckpoint } from './transform/scaled-checkpoint.ts'

export interface Verification {
  /** Files whose size and SHA-256 are those of the report. */
  readonly files: number
  /** Files of the folder that the report does not name. */
  readonly unlisted: readonly string[]
  /** Linears whose errors were computed again from the source, and are those of the report; null without a source. */
  readonly linears: number | null
  /** Tensors that are bit for bit those of the source; null without a source. */
  readonly kept: number | null
  /** Biases that are bit for bit those of the source with the shifts of the report; null without a source. */
  readonly corrected: number | null
}

const refuse = (where: string, problem: string): never => {
  throw new QuantizeError('bad-input', `${printable(where)}: ${problem}`)
}

const isPlainName = (name: string): boolean => name !== '' && name !== '.' && name !== '..' && basename(name) === name

/** @throws QuantizeError bad-input at the first file that is missing or differs */
const checkFiles = (folder: string, { outputs }: Report, files: Files, each: (name: string) => void): void => {
  for (const [name, { bytes, sha256 }] of Object.entries(outputs)) {
    const path = join(folder, name)
    if (!name.split('/').every(isPlainName))
      refuse(join(folder, reportName), `names ${printable(name)}, which is no plain file name`)
    const found = files.stat(path)
    if (found?.kind !== 'file') refuse(path, 'is missing; the report lists it')
    if (found!.bytes !== bytes) refuse(path, `has ${found!.bytes} bytes; the report says ${bytes}`)
    const actual = hashFile(path, files).sha256
    if (actual !== sha256) refuse(path, `has SHA-256 ${actual}; the report says ${sha256}`)
    each(name)
  }
}

/** What a report of one linear says of its weights. */
type WeightFigures = Pick<LinearReport, 'weightMse' | 'sqnrDb' | 'maxAbsError' | 'clippedFraction' | 'zeroedWeights'>

/** Linears of an output as they are stored: in the format that it declares, or as plain weights. */
const storedLinears = (output: Checkpoint, configs: Configs): ((name: string) => QuantizedLinear) => {
  const detected = detectFormat(output.tensors, configs, output.folder)
  return name => {
    const format = detected?.linears.has(name) ? detected.format : formats.safetensors
    if (!detected?.linears.has(name) && !output.tensors.has(`${name}.weight`))
      refuse(output.path, `holds no linear ${printable(name)}; the report lists it`)
    return format.unpack(name, part => output.tensors.get(part), configs)
  }
}

const figuresOf = async (
  kernels: Kernels,
  source: TensorSource,
  stored: QuantizedLinear,
  { name, zeroedWeights }: LinearReport,
): Promise<WeightFigures> => {
  const { out, in: inputs } = stored
  if (source.shape.length !== 2 || source.shape[0] !== out || source.shape[1] !== inputs)
    refuse(
      source.file,
      `${printable(source.name)} of ${printable(name)} is [${source.shape}]; the output holds [${out}, ${inputs}]`,
    )
  const finite = zeroedWeights > 0 ? finiteSource(source) : undefined
  const sums = await measureRows(kernels, matrixOf(finite?.source ?? source, out, inputs), stored)
  const { mse, sqnrDb, maxAbsError } = weightError(out * inputs, sums)
  return {
    weightMse: mse,
    sqnrDb,
    maxAbsError,
    clippedFraction: sums.clipped / (out * inputs),
    zeroedWeights: finite?.zeroed() ?? 0,
  }
}

const sourceTensor = (source: Checkpoint, name: string): TensorSource =>
  source.tensors.get(name) ?? refuse(source.path, `holds no tensor ${printable(name)}; the report lists it`)

/** As the output stores what stays unquantized: its dtype may differ. @throws QuantizeError bad-input */
const storedAs = (source: TensorSource, dtype: Dtype): TensorSource => {
  if (dtype !== source.dtype && !(isFloat(dtype) && isFloat(source.dtype)))
    return refuse(source.file, `${printable(source.name)} is ${source.dtype}; the output holds ${dtype}`)
  return castSource(source, dtype)
}

const keptTensor = (output: Checkpoint, name: string): TensorSource =>
  output.tensors.get(name) ?? refuse(output.path, `holds no tensor ${printable(name)}; the report lists it`)

/**
 * Whether a bias is the source's, transformed, with the shift that the report tells, and moved so far as it says.
 * The shift itself is not computed again: it needs the calibration pass.
 * @throws QuantizeError bad-input
 */
const checkCorrected = (
  source: Checkpoint,
  output: Checkpoint,
  { name, linear, shift }: CorrectedReport,
  { linears }: Report,
): void => {
  const [bias, stored] = [sourceTensor(source, name), keptTensor(output, name)]
  const misfit = (): never => refuse(output.path, `the shift of ${printable(name)} does not fit the source`)
  const values = fromBase64(shift) ?? misfit()
  const dtype = isWeightDtype(stored.dtype) ? stored.dtype : misfit()
  if (!isFloat(bias.dtype) || product(bias.shape, name) !== values.length) misfit()
  if (hashTensor(stored) !== hashTensor(castSource(shiftedBias(bias, values), dtype)))
    refuse(output.path, `${printable(name)} is not the source's with the shift that the report tells`)
  const change = rootMeanSquare(changeOf(bias, values, dtype))
  const said = linears.find(({ name }) => name === linear)?.biasShift
  if (change !== said)
    refuse(output.path, `${printable(linear)}: biasShift is ${change}; the report says ${said ?? null}`)
}

/** The source with the transform that the report tells put into its weights again. @throws QuantizeError bad-input for one that cannot be */
const transformed = (source: Checkpoint, output: Checkpoint, { transforms }: Report): Checkpoint => {
  if (transforms.every(({ factors }) => factors === null)) return source
  const scaled = scaledCheckpoint(source)
  for (const { tap, via, divided, multiplied, heads, factors } of transforms) {
    if (via === null || factors === null) continue
    const values = fromBase64(factors)
    const [weight, ...rest] = divided.map(name => sourceTensor(source, name))
    const columns = multiplied.map(name => sourceTensor(source, name))
    const width = columns[0]?.shape[1] ?? 0
    const norm = via === 'norm' ? output.tensors.get(divided[0])?.dtype : 'F32'
    const fits =
      isWeightDtype(norm) &&
      values?.every(isFinitePositive) === true &&
      weight !== undefined &&
      columns.every(({ shape }) => shape.length === 2 && shape[1] === width) &&
      weight.shape[0] === values.length &&
      rest.every(({ shape, name }) => product(shape, printable(name)) === values.length) &&
      (heads
        ? width % heads[0] === 0 && heads[0] % heads[1] === 0 && values.length === (width / heads[0]) * heads[1]
        : values.length === width)
    if (!fits) return refuse(output.path, `the transform of the input of ${printable(tap)} does not fit the source`)
    const fold = { divided, via, channelOf: channelsBehind(width, heads ?? undefined) }
    applyScales(scaled, fold, values, multiplied, name => output.tensors.get(name)?.dtype as WeightDtype)
  }
  return scaled
}

/** @throws QuantizeError bad-input when the source is another model, or a figure of the report is not that of the bytes */
const checkAgainst = async (
  kernels: Kernels,
  original: Checkpoint,
  output: Checkpoint,
  report: Report,
  files: Files,
  each: (name: string) => void,
): Promise<void> => {
  for (const name of original.files) {
    const { sha256 } = hashFile(join(original.folder, name), files)
    if (sha256 !== report.source.sha256[name])
      refuse(join(original.folder, name), `is not the file that was quantized: SHA-256 ${sha256}`)
  }
  const configs = modelConfigs(output, configFiles, files)
  const storedIn = storedLinears(output, configs)
  const source = transformed(original, output, report)
  for (const linear of report.linears) {
    const figures = await figuresOf(kernels, sourceTensor(source, linear.tensor), storedIn(linear.name), linear)
    for (const [figure, value] of Object.entries(figures)) {
      const said = linear[figure as keyof WeightFigures]
      if (said !== value)
        refuse(output.path, `${printable(linear.name)}: ${figure} is ${value}; the report says ${said}`)
    }
    each(linear.name)
  }
  for (const { name } of report.kept) {
    const kept = keptTensor(output, name)
    if (hashTensor(kept) !== hashTensor(storedAs(sourceTensor(source, name), kept.dtype)))
      refuse(output.path, `${printable(name)} differs from the source's; the report says that it was kept`)
    each(name)
  }
  for (const corrected of report.corrected) {
    checkCorrected(source, output, corrected, report)
    each(corrected.name)
  }
  const corrected = new Set(report.corrected.map(({ linear }) => linear))
  const unlisted = report.linears.find(({ name, biasShift }) => biasShift !== null && !corrected.has(name))
  if (unlisted) refuse(output.path, `the bias of ${printable(unlisted.name)} is not among those that were corrected`)
}

/**
 * Reads an output again: sizes and hashes of its files against its report and, given the source, the error of every linear (to the bit)
 * and every tensor that was kept or corrected. The output errors are not computed again: they need the calibration pass.
 * @param folder an output of `quantize`
 * @param each after each file, linear and tensor
 * @throws QuantizeError bad-input at the first difference, with both values
 */
export const verify = async (
  folder: string,
  sourcePath: string | undefined,
  createKernels: () => Promise<Kernels>,
  files: Files,
  each: (name: string) => void,
): Promise<Verification> => {
  const reportPath = join(folder, reportName)
  if (files.stat(reportPath)?.kind !== 'file')
    refuse(folder, `holds no ${reportName}; verify reads what quantize wrote`)
  const report = parseReport(files.readText(reportPath, maxReportBytes), reportPath)
  checkFiles(folder, report, files, each)
  const unlisted = filesIn(folder, files).filter(name => name !== reportName && !Object.hasOwn(report.outputs, name))
  const counted = { files: Object.keys(report.outputs).length, unlisted }
  if (sourcePath === undefined) return { ...counted, linears: null, kept: null, corrected: null }
  const opened: Checkpoint[] = []
  let kernels: Kernels | undefined
  try {
    const plain = openCheckpoint(sourcePath, files)
    opened.push(plain)
    const source = openDecoded(plain, modelConfigs(plain, configFiles, files))
    const output = openCheckpoint(folder, files)
    opened.push(output)
    kernels = await createKernels()
    await checkAgainst(kernels, source, output, report, files, each)
    const { linears, kept, corrected } = report
    return { ...counted, linears: linears.length, kept: kept.length, corrected: corrected.length }
  } finally {
    await kernels?.close()
    for (const checkpoint of opened) checkpoint.close()
  }
}
