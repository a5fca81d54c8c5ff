/** The `quantization_config` of a bitsandbytes checkpoint (transformers, BitsAndBytesConfig). */
import type { AssembleFacts, Configs, WeightDtype } from '../contracts.ts'
import { declaredFields, fieldOf, flagOf, isObject, jsonText, malformed } from './config-fields.ts'

export interface DeclaredBnb {
  /** Scales of 4-bit weights are quantized themselves. */
  readonly double: boolean
  /** Magnitude from which on LLM.int8() leaves a feature unquantized. */
  readonly threshold: number
  /** Of the model. */
  readonly dtype: WeightDtype
}

const dtypeOf = (configs: Configs): WeightDtype => {
  const config = configs['config.json']
  const name = isObject(config) ? (fieldOf(config, 'dtype') ?? fieldOf(config, 'torch_dtype')) : undefined
  return name === 'float16' ? 'F16' : name === 'float32' ? 'F32' : 'BF16'
}

export const declaredBnb = (configs: Configs): DeclaredBnb | undefined => {
  const fields = declaredFields(configs, 'bitsandbytes')
  if (!fields) return undefined
  const threshold = fieldOf(fields, 'llm_int8_threshold') ?? 6
  if (typeof threshold !== 'number' || !(threshold >= 0))
    throw malformed('llm_int8_threshold', threshold, 'a number from 0')
  return {
    double: flagOf(fields, 'load_in_4bit', false) && flagOf(fields, 'bnb_4bit_use_double_quant', false),
    threshold,
    dtype: dtypeOf(configs),
  }
}

/** transformers wants a float where JavaScript writes 6. */
const withFloat = (text: string): string => text.replace('"llm_int8_threshold": 6,', '"llm_int8_threshold": 6.0,')

export const bnbConfig = (
  sourceConfig: Readonly<Record<string, unknown>> | undefined,
  { linears, kept, grid }: AssembleFacts,
  double: boolean,
): ReadonlyMap<string, string> => {
  const eight = grid === 'int'
  const quantization = {
    quant_method: 'bitsandbytes',
    load_in_4bit: !eight,
    load_in_8bit: eight,
    bnb_4bit_quant_type: grid === 'bnb-fp4' ? 'fp4' : 'nf4',
    bnb_4bit_use_double_quant: double,
    bnb_4bit_compute_dtype: 'float32',
    bnb_4bit_quant_storage: 'uint8',
    llm_int8_threshold: 6,
    llm_int8_skip_modules: [...(linears.some(({ role }) => role === 'head') ? [] : ['lm_head']), ...kept],
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
  }
  if (!sourceConfig) return new Map([['quantize_config.json', jsonText(quantization)]])
  return new Map([['config.json', withFloat(jsonText({ ...sourceConfig, quantization_config: quantization }))]])
}
