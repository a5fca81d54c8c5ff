/** Whether the tensors of an output are what its report says that the run made of the source's. */
import { join } from 'node:path'
import { modelConfigs } from '../checkpoint/beside.ts'
import { castSource } from '../checkpoint/cast-source.ts'
import { finiteSource } from '../checkpoint/finite-source.ts'
import { hashTensor } from '../checkpoint/tensor-pieces.ts'
import type { Checkpoint, Configs, QuantizedLinear, TensorSource } from '../contracts.ts'
import { fromBase64 } from '../dtype/base64.ts'
import { isFloat, isWeightDtype } from '../dtype/convert.ts'
import type { Dtype } from '../dtype/dtype.ts'
import { measureRows } from '../engine/kernel/measure.ts'
import { matrixOf } from '../engine/kernel/panels.ts'
import type { Kernels } from '../engine/kernel/pool.ts'
import { configFiles, detectFormat, formats } from '../format/index.ts'
import type { Files } from '../io/files.ts'
import { printable } from '../io/printable.ts'
import { product } from '../io/size.ts'
import { hashFile } from '../io/whole-file.ts'
import { changeOf, rootMeanSquare, shiftedBias } from '../quantize/bias-correction.ts'
import { weightError } from '../report/measure.ts'
import type { CorrectedReport, LinearReport, Report } from '../report/schema.ts'
import { refuse, tensorOf } from './difference.ts'
import { transformed } from './transformed.ts'

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

/** As the output stores what stays unquantized: its dtype may differ. @throws QuantizeError bad-input */
const storedAs = (source: TensorSource, dtype: Dtype): TensorSource => {
  if (dtype !== source.dtype && !(isFloat(dtype) && isFloat(source.dtype)))
    return refuse(source.file, `${printable(source.name)} is ${source.dtype}; the output holds ${dtype}`)
  return castSource(source, dtype)
}

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
  const [bias, stored] = [tensorOf(source, name), tensorOf(output, name)]
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

/** @throws QuantizeError bad-input when the source is another model, or a figure of the report is not that of the bytes */
export const checkAgainst = async (
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
    const figures = await figuresOf(kernels, tensorOf(source, linear.tensor), storedIn(linear.name), linear)
    for (const [figure, value] of Object.entries(figures)) {
      const said = linear[figure as keyof WeightFigures]
      if (said !== value)
        refuse(output.path, `${printable(linear.name)}: ${figure} is ${value}; the report says ${said}`)
    }
    each(linear.name)
  }
  for (const { name } of report.kept) {
    const kept = tensorOf(output, name)
    if (hashTensor(kept) !== hashTensor(storedAs(tensorOf(source, name), kept.dtype)))
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
