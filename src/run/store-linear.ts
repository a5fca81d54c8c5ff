import { createHash } from 'node:crypto'
import type { ShardWriter } from '../checkpoint/write-safetensors.ts'
import type {
  BlockLinear,
  CodedLinear,
  Configs,
  Format,
  QuantizedLinear,
  Statistics,
  TensorSource,
} from '../contracts.ts'
import { toBase64 } from '../dtype/base64.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { measureRows, type Values } from '../engine/kernel/measure.ts'
import { matrixOf } from '../engine/kernel/panels.ts'
import type { Kernels } from '../engine/kernel/pool.ts'
import { type OutputError, outputError } from '../engine/ort/output-error.ts'
import type { Engine } from '../engine/ort/session.ts'
import type { PlannedLinear } from '../plan/linears.ts'
import { changedError, changeOf, meanErrors, rootMeanSquare } from '../quantize/bias-correction.ts'
import type { BiasCorrection } from '../report/build.ts'
import { type WeightError, weightError } from '../report/measure.ts'

export interface StoredLinear {
  /** [out, in], as decoded from the bytes on disk, if the meter keeps it. */
  readonly decoded: Float32Array | undefined
  readonly error: WeightError
  readonly relativeOutputError: number | null
  /** Of its bias; null: it has none, or it stays. */
  readonly correction: BiasCorrection | null
  /** Share of weights that lie outside the range their codes can reach. Rounding alone leaves none there. */
  readonly clippedFraction: number
  /** SHA-256 of each stored tensor, by name. */
  readonly sha256: Readonly<Record<string, string>>
}

/** Where output errors are computed. */
export interface OutputMeter {
  readonly engine: Engine
  readonly statistics: Statistics
  /** Whether the pass goes on through decoded weights that are kept in memory. */
  readonly keepDecoded: boolean
  /** Activations that were not finite and counted as 0. */
  readonly zeroed: number
}

/** A linear as the output holds it now. */
export const readStored = (
  { name, tensors }: PlannedLinear,
  format: Format,
  writer: ShardWriter,
  outputConfigs: Configs,
): QuantizedLinear => {
  const parts = new Set(tensors.map(tensor => tensor.name))
  return format.unpack(name, part => (parts.has(part) ? writer.read(part) : undefined), outputConfigs)
}

/** What a linear is made from. */
export interface LinearSources {
  readonly weight: TensorSource
  /** Where it is corrected. */
  readonly bias: TensorSource | undefined
}

/**
 * Packs one linear into its place in the output, reads it back, and measures what was stored against the source.
 * @param outputConfigs config files of the output, as `unpack` reads them
 */
export const storeLinear = async (
  kernels: Kernels,
  { weight, bias }: LinearSources,
  planned: PlannedLinear,
  quantized: CodedLinear | BlockLinear,
  format: Format,
  writer: ShardWriter,
  outputConfigs: Configs,
  meter?: OutputMeter,
): Promise<StoredLinear> => {
  const sha256: Record<string, string> = {}
  const packed =
    quantized.decode === 'blocks'
      ? [{ ...planned.tensors[0], data: quantized.blocks }] // as they are stored
      : format.pack(planned.scheme, quantized)
  for (const tensor of packed) {
    writer.write(tensor.name, tensor.data)
    sha256[tensor.name] = createHash('sha256').update(tensor.data).digest('hex')
  }
  const stored = readStored(planned, format, writer, outputConfigs)
  const weights = stored.out * stored.in
  const decoded = meter?.keepDecoded ? new Float32Array(weights) : undefined
  const outputs = { error: 0, energy: 0 }
  const means = new Float64Array(stored.out)
  const visit = async (values: Values, first: number): Promise<void> => {
    decoded?.set(values.decoded, first * stored.in)
    const { error, energy } = await outputError(meter!.engine, values.delta, values.original, meter!.statistics.gram)
    outputs.error += error
    outputs.energy += energy
    if (bias) means.set(meanErrors(values.delta, meter!.statistics.channels!.mean), first)
  }
  const sums = await measureRows(kernels, matrixOf(weight, stored.out, stored.in), stored, meter && visit)
  const shift = Float32Array.from(means)
  const change = bias && changeOf(bias, shift, planned.bias!.dtype as WeightDtype)
  if (change) outputs.error += changedError(change, means)
  return {
    decoded,
    error: weightError(weights, sums),
    clippedFraction: sums.clipped / weights,
    sha256,
    relativeOutputError: meter ? relativeError(outputs) : null,
    correction: change ? { shift: toBase64(shift), change: rootMeanSquare(change) } : null,
  }
}

/** tr(ΔW·G·ΔWᵀ) / tr(W·G·Wᵀ), less what a corrected bias makes up for; 0 where the outputs are all zero. */
const relativeError = ({ error, energy }: OutputError): number => (energy > 0 ? Math.max(0, error / energy) : 0)
