/**
 * Which runtimes load which GPTQ checkpoints: vLLM 0.33 (layers/quantization/auto_gptq.py) and GPTQModel 7.7 (nn_modules/qlinear,
 * models/loader.py), read in their sources. One sentence each, without the linear's name, so that equal ones are said once.
 */
import type { LinearScheme } from '../contracts.ts'

const vllmGroups = [32, 64, 128]
const gptqModelGroups = [16, 32, 64, 128, 256, 512, 1024]

const bitWarning = ({ bits }: LinearScheme): string | undefined =>
  bits === 4 || bits === 8
    ? undefined
    : `${bits}-bit GPTQ: vLLM 0.33 loads only 4 and 8 bits; GPTQModel and transformers load it`

const symmetryWarning = ({ symmetric }: LinearScheme, version: 1 | 2): string | undefined => {
  if (symmetric) return undefined
  const vllm = 'asymmetric GPTQ: vLLM 0.33 loads only --sym'
  if (version === 2) return vllm
  return `${vllm}, and GPTQModel refuses asymmetric gptq (v1) from other tools; --format gptq:v2 loads in GPTQModel`
}

const groupWarning = ({ group, groups, in: inputs }: LinearScheme): string | undefined => {
  if (groups === 1 || typeof group !== 'number' || vllmGroups.includes(group)) return undefined
  if (gptqModelGroups.includes(group) || group === inputs)
    return `groups of ${group}: vLLM 0.33 loads only 32, 64, 128 or channel`
  return `groups of ${group}: vLLM 0.33 loads only 32, 64, 128 or channel, GPTQModel only ${gptqModelGroups.join(', ')} or channel`
}

const orderWarning = ({ actOrder, groups }: LinearScheme): string | undefined =>
  actOrder === 'g_idx' && groups > 1
    ? '--act-order g_idx: vLLM 0.33 refuses it; --act-order static loads everywhere at the same cost'
    : undefined

const shapeWarning = ({ out, in: inputs }: LinearScheme): string | undefined =>
  out % 32 !== 0 || inputs % 32 !== 0
    ? 'a dimension that is not a multiple of 32: ExLlama and Triton kernels refuse it; GPTQModel computes it with its torch kernel'
    : undefined

/** Sentences on the runtimes that will not load this linear; empty when all do. */
export const gptqWarnings = (scheme: LinearScheme, version: 1 | 2): readonly string[] =>
  [
    version === 2
      ? 'gptq_v2 checkpoint: GPTQModel reads it, and transformers through it; other loaders expect --format gptq'
      : undefined,
    bitWarning(scheme),
    symmetryWarning(scheme, version),
    groupWarning(scheme),
    orderWarning(scheme),
    shapeWarning(scheme),
  ].filter(warning => warning !== undefined)
