/** The `quantization_config` of a bitsandbytes checkpoint (transformers, BitsAndBytesConfig). */
import type { AssembleFacts, Configs } from '../contracts.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'
import { isObject } from '../io/is-object.ts'
import { declaredFields, fieldOf, jsonText, malformed } from './config-fields.ts'

export interface DeclaredBnb {
  /** Magnitude from which on LLM.int8() leaves a feature unquantized; 0: it leaves none. */
  readonly threshold: number
  /** Of the model. */
  readonly dtype: WeightDtype
}

const dtypeOf = (configs: Configs): WeightDtype => {
  const config = configs['config.json']
  const name = isObject(config) ? (fieldOf(config, 'dtype') ?? fieldOf(config, 'torch_dtype')) : undefined
  return name === 'float16' ? 'F16' : name === 'float32' ? 'F32' : 'BF16'
}

/**
 * @returns undefined when no config declares bitsandbytes
 * @throws QuantizeError bad-input for a malformed field
 */
export const declaredBnb = (configs: Configs): DeclaredBnb | undefined => {
  const fields = declaredFields(configs, 'bitsandbytes')
  if (!fields) return undefined
  const threshold = fieldOf(fields, 'llm_int8_threshold') ?? 6
  if (typeof threshold !== 'number' || !(threshold >= 0 && threshold < Number.POSITIVE_INFINITY))
    throw malformed('llm_int8_threshold', threshold, 'a number from 0')
  return { threshold, dtype: dtypeOf(configs) }
}

const dtypeNames = { BF16: 'bfloat16', F16: 'float16', F32: 'float32' } as const

const quantizationOf = ({ linears, kept }: AssembleFacts, double: boolean) => {
  const [{ grid, dtype }] = linears
  return {
    quant_method: 'bitsandbytes',
    load_in_4bit: grid !== 'int',
    load_in_8bit: grid === 'int',
    bnb_4bit_quant_type: grid === 'bnb-fp4' ? 'fp4' : 'nf4',
    bnb_4bit_use_double_quant: double,
    bnb_4bit_compute_dtype: dtypeNames[dtype],
    bnb_4bit_quant_storage: 'uint8',
    llm_int8_threshold: 6,
    llm_int8_skip_modules: [...(linears.some(({ role }) => role === 'head') ? [] : ['lm_head']), ...kept],
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
  }
}

const threshold = '"llm_int8_threshold": 6'

/** transformers wants a float where JavaScript writes 6. The last one counts: the source may hold the same words before it. */
const withFloat = (text: string): string => {
  const end = text.lastIndexOf(threshold) + threshold.length
  return `${text.slice(0, end)}.0${text.slice(end)}`
}

/** transformers makes all linears of a model of one class. @throws QuantizeError unsupported */
const checkOneClass = ({ linears }: AssembleFacts): void => {
  const eight = linears.find(({ grid }) => grid === 'int')
  const four = linears.find(({ grid }) => grid !== 'int')
  if (eight && four)
    throw new QuantizeError(
      'unsupported',
      `bitsandbytes has all linears of a model in 4 bits or all in 8, not ${eight.name} in 8 and ${four.name} in 4; --exclude leaves some dense`,
    )
}

/** @throws QuantizeError unsupported for linears of 4 and of 8 bits */
export const bnbConfig = (
  sourceConfig: Readonly<Record<string, unknown>> | undefined,
  facts: AssembleFacts,
  double: boolean,
): ReadonlyMap<string, string> => {
  checkOneClass(facts)
  const quantization = quantizationOf(facts, double)
  if (!sourceConfig) return new Map([['quantize_config.json', withFloat(jsonText(quantization))]])
  const { quantization_config: replaced, ...config } = sourceConfig
  return new Map([['config.json', withFloat(jsonText({ ...config, quantization_config: quantization }))]])
}
