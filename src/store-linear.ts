import { readWeight } from './checkpoint/read-weight.ts'
import type { ShardWriter } from './checkpoint/write-safetensors.ts'
import type { Checkpoint, Format, QuantizedLinear, Statistics } from './contracts.ts'
import { outputError } from './engine/ort/output-error.ts'
import type { Engine } from './engine/ort/session.ts'
import type { PlannedLinear } from './plan.ts'
import { dequantize } from './quantize/dequantize.ts'
import { clippedFraction, measureLinear, type WeightError } from './report/measure.ts'

export interface StoredLinear {
  /** [out, in], as decoded from the bytes on disk; without a meter, valid until the next linear. */
  readonly decoded: Float32Array
  readonly error: WeightError
  readonly relativeOutputError: number | null
  readonly clippedFraction: number
}

/** Where output errors are computed. */
export interface OutputMeter {
  readonly engine: Engine
  readonly statistics: Statistics
}

/** Buffers for float32 values, used again for each linear: fresh ones of this size would cost a third of a data-free run in page faults. */
export interface Scratch {
  /** The first `length` values of the buffer for this use; what they hold is what was written last. */
  take(use: 'original' | 'decoded' | 'delta', length: number): Float32Array
}

export const createScratch = (): Scratch => {
  const buffers = { original: new Float32Array(0), decoded: new Float32Array(0), delta: new Float32Array(0) }
  return {
    take(use, length) {
      if (buffers[use].length < length) buffers[use] = new Float32Array(length)
      return buffers[use].subarray(0, length)
    },
  }
}

/**
 * Packs one linear into its place in the output, reads it back, and measures what was stored against the source.
 * @param outputConfig config.json of the output, as `unpack` reads it
 */
export const storeLinear = async (
  checkpoint: Checkpoint,
  planned: PlannedLinear,
  quantized: QuantizedLinear,
  format: Format,
  writer: ShardWriter,
  outputConfig: unknown,
  scratch: Scratch,
  meter?: OutputMeter,
): Promise<StoredLinear> => {
  const { name, weight } = planned
  for (const tensor of format.pack(name, quantized)) writer.write(tensor.name, tensor.data)
  const parts = new Set(planned.tensors.map(tensor => tensor.name))
  const stored = format.unpack(name, part => (parts.has(part) ? writer.read(part) : undefined), outputConfig)
  const length = stored.out * stored.in
  // with a meter the pass goes on through the weights, so that they need a buffer of their own
  const decoded = dequantize(stored, meter ? undefined : scratch.take('decoded', length))
  const original = readWeight(checkpoint, weight, scratch.take('original', length)).data
  return {
    decoded,
    error: measureLinear(original, decoded),
    clippedFraction: clippedFraction(original, stored),
    relativeOutputError: meter ? await relativeError(meter, original, decoded, scratch.take('delta', length)) : null,
  }
}

/** tr(ΔW·G·ΔWᵀ) / tr(W·G·Wᵀ); 0 where the outputs are all zero. */
const relativeError = async (
  { engine, statistics }: OutputMeter,
  original: Float32Array,
  decoded: Float32Array,
  delta: Float32Array,
): Promise<number> => {
  for (let i = 0; i < delta.length; i++) delta[i] = original[i] - decoded[i]
  const { error, energy } = await outputError(engine, delta, original, statistics.gram)
  return energy > 0 ? Math.max(0, error / energy) : 0
}
