/** A quantized checkpoint seen as a plain one: `<module>.weight` in float32 instead of codes and scales. */
import type { Checkpoint, Configs, QuantizedLinear, TensorSource } from './contracts.ts'
import { dequantize } from './dequantize.ts'
import { type DetectedFormat, detectFormat } from './format/index.ts'
import { ownerOf } from './format/owner.ts'
import { multiply } from './io/size.ts'

export interface DecodedCheckpoint extends Checkpoint {
  readonly format: DetectedFormat['format']
  /** Modules whose weight is decoded, and how they are stored. */
  readonly schemes: DetectedFormat['linears']
  /** Bytes of all tensor data as they are stored. */
  readonly storedBytes: number
  /** A module as it is stored. */
  unpack(module: string): QuantizedLinear
}

/** Values as bytes of float32. */
const bytesOf = (values: Float32Array): Uint8Array =>
  new Uint8Array(values.buffer as ArrayBuffer, values.byteOffset, values.byteLength)

/**
 * Decodes whole modules on demand; the last one is kept, since its rows are read piece by piece. Closing it closes what it was made of.
 * @throws QuantizeError as Format.unpack, when a weight is read
 */
export const decodedCheckpoint = (
  checkpoint: Checkpoint,
  { format, linears }: DetectedFormat,
  configs: Configs,
): DecodedCheckpoint => {
  let last: { readonly module: string; readonly bytes: Uint8Array } | undefined
  const unpack = (module: string): QuantizedLinear =>
    format.unpack(module, name => checkpoint.tensors.get(name), configs)
  const decoded = (module: string): Uint8Array => {
    if (last?.module === module) return last.bytes
    last = undefined // both would be in memory
    const { out, in: inputs } = linears.get(module)!
    // blocks over the flattened weight may leave padding behind it
    last = { module, bytes: bytesOf(dequantize(unpack(module)).subarray(0, out * inputs)) }
    return last.bytes
  }
  const weightOf = (module: string, part: TensorSource): TensorSource => {
    const { out, in: inputs } = linears.get(module)!
    const name = `${module}.weight`
    return {
      name,
      dtype: 'F32',
      shape: [out, inputs],
      bytes: multiply(4 * out, inputs, name),
      file: part.file,
      read(start, end, into) {
        const bytes = decoded(module).subarray(start, end)
        into?.set(bytes)
        return into ?? bytes.slice()
      },
    }
  }
  const tensors = new Map<string, TensorSource>()
  for (const [name, tensor] of checkpoint.tensors) {
    const module = ownerOf(name, linears)
    if (module === undefined) tensors.set(name, tensor)
    else if (!tensors.has(`${module}.weight`)) tensors.set(`${module}.weight`, weightOf(module, tensor))
  }
  const storedBytes = [...checkpoint.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0)
  return { ...checkpoint, tensors, storedBytes, format, schemes: linears, unpack, close: () => checkpoint.close() }
}

/** The checkpoint with its quantized weights decoded; itself when it declares no quantization that is known. */
export const openDecoded = (checkpoint: Checkpoint, configs: Configs): Checkpoint | DecodedCheckpoint => {
  const detected = detectFormat(checkpoint.tensors, configs, checkpoint.folder)
  return detected ? decodedCheckpoint(checkpoint, detected, configs) : checkpoint
}

export const isDecoded = (checkpoint: Checkpoint): checkpoint is DecodedCheckpoint => 'schemes' in checkpoint
