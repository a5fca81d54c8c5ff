import type { Configs, Format, LinearScheme, TensorSource } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'
import { awq } from './awq.ts'
import { bnb, bnbDouble } from './bnb.ts'
import { codebook } from './codebook.ts'
import { compressedTensors } from './compressed-tensors.ts'
import { fp8 } from './fp8.ts'
import { ggufFormats } from './gguf.ts'
import { gptq, gptqV2 } from './gptq.ts'
import { hqq } from './hqq.ts'
import { mlx } from './mlx.ts'
import { onnx } from './onnx/onnx.ts'
import { quanto } from './quanto.ts'
import { safetensors, safetensorsBf16, safetensorsF16, safetensorsF32 } from './safetensors.ts'

/** Every checkpoint format that we write and read; one line each. */
export const formats = {
  gptq,
  'gptq:v2': gptqV2,
  'compressed-tensors': compressedTensors,
  fp8,
  awq,
  bnb,
  'bnb:double': bnbDouble,
  safetensors,
  'safetensors:bf16': safetensorsBf16,
  'safetensors:f16': safetensorsF16,
  'safetensors:f32': safetensorsF32,
  codebook,
  hqq,
  quanto,
  mlx,
  onnx,
  ...ggufFormats,
} satisfies Readonly<Record<string, Format>>

export type FormatName = keyof typeof formats

/** Files beside the weights that formats read: `Configs` holds those that are there. */
export const configFiles = ['config.json', 'quantize_config.json', 'quant_config.json', 'quanto_qmap.json'] as const

export const formatNames: readonly string[] = Object.keys(formats)

/** @throws QuantizeError bad-option when there is no such format */
export const formatNamed = (name: string): Format => {
  if (Object.hasOwn(formats, name)) return formats[name as FormatName]
  throw new QuantizeError('bad-option', `--format ${name} is not known; known: ${formatNames.join(', ')}`)
}

/** What a checkpoint is stored in. */
export interface DetectedFormat {
  readonly format: Format
  /** Module name → its scheme. */
  readonly linears: ReadonlyMap<string, LinearScheme>
}

/**
 * The format of a checkpoint's quantized linears, or undefined when it declares none that we know.
 * @param configs its config files, by name (`configFiles`)
 * @param where the checkpoint, for messages that name a field or a tensor but no file
 * @throws QuantizeError as Format.detect
 */
export const detectFormat = (
  tensors: ReadonlyMap<string, TensorSource>,
  configs: Configs,
  where: string,
): DetectedFormat | undefined => {
  for (const format of Object.values(formats)) {
    const linears = located(where, () => format.detect(tensors, configs))
    if (linears) return { format, linears }
  }
  return undefined
}

const located = <T>(where: string, run: () => T): T => {
  try {
    return run()
  } catch (error) {
    if (!(error instanceof QuantizeError) || error.message.startsWith(where)) throw error
    throw new QuantizeError(error.code, `${printable(where)}: ${error.message}`, {
      cause: error,
      lasting: error.lasting,
    })
  }
}
