import { createHash } from 'node:crypto'
import type { ShardWriter } from './checkpoint/write-safetensors.ts'
import type { Format, QuantizedLinear, Statistics, TensorSource } from './contracts.ts'
import { measureRows, type Values } from './engine/kernel/measure.ts'
import { matrixOf } from './engine/kernel/panels.ts'
import type { Kernels } from './engine/kernel/pool.ts'
import { outputError } from './engine/ort/output-error.ts'
import type { Engine } from './engine/ort/session.ts'
import type { PlannedLinear } from './plan.ts'
import { type WeightError, weightError } from './report/measure.ts'

export interface StoredLinear {
  /** [out, in], as decoded from the bytes on disk; undefined without a meter. */
  readonly decoded: Float32Array | undefined
  readonly error: WeightError
  readonly relativeOutputError: number | null
  /** Share of weights that lie outside the range their codes can reach. Rounding alone leaves none there. */
  readonly clippedFraction: number
  /** SHA-256 of each stored tensor, by name. */
  readonly sha256: Readonly<Record<string, string>>
}

/** Where output errors are computed. */
export interface OutputMeter {
  readonly engine: Engine
  readonly statistics: Statistics
  /** Activations that were not finite and counted as 0. */
  readonly zeroed: number
}

/** Buffers used again for each linear: fresh ones of this size cost a third of the time in page faults. */
export interface Scratch {
  /** The first `length` values of the buffer for this use; what they hold is what was written last. */
  take(use: 'original' | 'delta', length: number): Float32Array
}

export const createScratch = (): Scratch => {
  const buffers = { original: new Float32Array(0), delta: new Float32Array(0) }
  return {
    take(use, length) {
      if (buffers[use].length < length) buffers[use] = new Float32Array(length)
      return buffers[use].subarray(0, length)
    },
  }
}

/** A linear as the output holds it now. */
export const readStored = (
  { name, tensors }: PlannedLinear,
  format: Format,
  writer: ShardWriter,
  outputConfig: unknown,
): QuantizedLinear => {
  const parts = new Set(tensors.map(tensor => tensor.name))
  return format.unpack(name, part => (parts.has(part) ? writer.read(part) : undefined), outputConfig)
}

/**
 * Packs one linear into its place in the output, reads it back, and measures what was stored against the source.
 * @param outputConfig config.json of the output, as `unpack` reads it
 */
export const storeLinear = async (
  kernels: Kernels,
  source: TensorSource,
  planned: PlannedLinear,
  quantized: QuantizedLinear,
  format: Format,
  writer: ShardWriter,
  outputConfig: unknown,
  scratch: Scratch,
  meter?: OutputMeter,
): Promise<StoredLinear> => {
  const sha256: Record<string, string> = {}
  for (const tensor of format.pack(planned.name, quantized)) {
    writer.write(tensor.name, tensor.data)
    sha256[tensor.name] = createHash('sha256').update(tensor.data).digest('hex')
  }
  const stored = readStored(planned, format, writer, outputConfig)
  const weights = stored.out * stored.in
  const values = meter && {
    original: scratch.take('original', weights),
    decoded: new Float32Array(weights), // not scratch: the pass goes on through it
    delta: scratch.take('delta', weights),
  }
  const sums = await measureRows(kernels, matrixOf(source, stored.out, stored.in), stored, values)
  return {
    decoded: values?.decoded,
    error: weightError(weights, sums),
    clippedFraction: sums.clipped / weights,
    sha256,
    relativeOutputError: meter ? await relativeError(meter, values!) : null,
  }
}

/** tr(ΔW·G·ΔWᵀ) / tr(W·G·Wᵀ); 0 where the outputs are all zero. */
const relativeError = async ({ engine, statistics }: OutputMeter, { original, delta }: Values): Promise<number> => {
  const { error, energy } = await outputError(engine, delta, original, statistics.gram)
  return energy > 0 ? Math.max(0, error / energy) : 0
}
