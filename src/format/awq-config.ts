/** The quantization config of an AWQ checkpoint (AutoAWQ, awq/models/_config.py; vLLM, awq_marlin.py; transformers, AwqConfig). */
import type { AssembleFacts, Configs } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { declaredFields, flagOf, jsonText, malformed, shownValue, wholeOf, wordOf } from './config-fields.ts'
import { denseKeys } from './dynamic.ts'
import { fusedOf } from './fused.ts'

export interface DeclaredAwq {
  readonly version: 'gemm' | 'gemv'
  /** −1: one group for all inputs. */
  readonly groupSize: number
  readonly symmetric: boolean
}

/**
 * @returns undefined when no config declares AWQ
 * @throws QuantizeError bad-input for a malformed field, unsupported for a version that is not read
 */
export const declaredAwq = (configs: Configs): DeclaredAwq | undefined => {
  const fields = declaredFields(configs, 'awq')
  if (!fields) return undefined
  const version = (wordOf(fields, 'version') ?? wordOf(fields, 'format') ?? 'gemm').toLowerCase()
  if (version !== 'gemm' && version !== 'gemv')
    throw new QuantizeError('unsupported', `AWQ version ${shownValue(version)} cannot be read; gemm and gemv can`)
  const bits = wholeOf(fields, 'bits', 1, 16) ?? wholeOf(fields, 'w_bit', 1, 16) ?? 4
  if (bits !== 4) throw malformed('bits', bits, '4')
  const groupSize = wholeOf(fields, 'group_size', -1, 2 ** 31) ?? wholeOf(fields, 'q_group_size', -1, 2 ** 31) ?? 128
  if (groupSize === 0) throw malformed('group_size', groupSize, '-1 or a positive integer')
  return { version, groupSize, symmetric: !flagOf(fields, 'zero_point', true) || flagOf(fields, 'sym', false) }
}

/** Module names, of which vLLM looks for substrings: with a dot behind, `layers.1` is not in `layers.10`. */
const skipped = ({ kept }: AssembleFacts, head: boolean): readonly string[] => [
  ...(head ? [] : ['lm_head']),
  ...kept,
  ...fusedOf(kept),
]

export const awqConfig = (
  sourceConfig: Readonly<Record<string, unknown>> | undefined,
  facts: AssembleFacts,
): ReadonlyMap<string, string> => {
  const { linears, kept } = facts
  const [{ group }] = linears // all have one scheme
  const head = linears.some(({ role }) => role === 'head')
  const quantization = {
    quant_method: 'awq',
    zero_point: true, // also where all are 8: vLLM takes its slower kernels otherwise
    sym: linears.every(({ symmetric }) => symmetric),
    group_size: typeof group === 'number' ? group : -1,
    bits: 4,
    version: 'gemm',
    modules_to_not_convert: skipped(facts, head),
    ...(head ? { lm_head: true } : {}),
    // GPTQModel reads this instead of modules_to_not_convert
    ...(kept.length > 0 ? { dynamic: Object.fromEntries(denseKeys(kept).map(key => [key, {}])) } : {}),
  }
  const files = new Map([['quantize_config.json', jsonText(quantization)]])
  if (sourceConfig) files.set('config.json', jsonText({ ...sourceConfig, quantization_config: quantization }))
  return files
}
