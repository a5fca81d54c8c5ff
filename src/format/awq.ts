/**
 * AWQ's GEMM checkpoint (AutoAWQ, awq/modules/linear/gemm.py; read by vLLM, transformers, TGI, SGLang, mlx-lm): 4 bits,
 * W[o, i] = scales[g, o] · (q[i, o] − z[g, o]). `qweight` I32 [in, out/8] and `qzeros` I32 [G, out/8] are packed along the outputs, in the
 * order of awq-order.ts. Zero points are stored as they are.
 */

import type { CodedLinear, Format, LinearScheme, StoredTensor, TensorInfo } from '../contracts.ts'
import { bytesOf } from '../dtype/bytes.ts'
import { awqConfig } from './awq-config.ts'
import { interleaved } from './awq-order.ts'
import { detectAwq, unpackAwq } from './awq-read.ts'
import { packLines } from './bits.ts'
import { floatBytes, tensorInfo, withData } from './stored.ts'
import { transpose } from './transpose.ts'

const layout = ({ name, out, in: inputs, groups }: LinearScheme): readonly TensorInfo[] => [
  tensorInfo(`${name}.qweight`, 'I32', [inputs, out / 8]),
  tensorInfo(`${name}.qzeros`, 'I32', [groups, out / 8]),
  tensorInfo(`${name}.scales`, 'F16', [groups, out]),
]

const pack = (scheme: LinearScheme, { codes, zeros, scales }: CodedLinear): readonly StoredTensor[] => {
  const { out, in: inputs, groups } = scheme
  const byInput = transpose(codes, out, inputs, new Uint8Array(codes.length))
  const byGroup = transpose(Uint8Array.from(zeros), out, groups, new Uint8Array(zeros.length))
  return withData(layout(scheme), [
    bytesOf(packLines(interleaved(byInput), inputs, out, 4, false)),
    bytesOf(packLines(interleaved(byGroup), groups, out, 4, false)),
    floatBytes(transpose(scales, out, groups, new Float32Array(scales.length)), 'F16'),
  ])
}

const refuses = ({ grid, bits, group, out, in: inputs, actOrder }: LinearScheme): string | undefined => {
  if (grid !== 'int' || bits !== 4)
    return `AWQ stores integers of 4 bits, not ${grid} of ${bits}; --format gptq has 2, 3, 4 and 8`
  if (group === 'tensor' || group === 'block')
    return `AWQ has a scale for each output; use --group 128 or channel, not ${group}`
  if (typeof group === 'number' && inputs % group !== 0)
    return `groups of ${group} do not divide ${inputs} inputs; use --group channel, or a group that does`
  if (actOrder === 'g_idx') return 'AWQ keeps groups in the order of the inputs; use --act-order static'
  return out % 8 === 0
    ? undefined
    : `out = ${out} is not a multiple of 8: AWQ packs 8 outputs to a word; --format hqq would fit`
}

const warnings = ({ role, group, out, in: inputs }: LinearScheme): readonly string[] => [
  ...(typeof group === 'number' && ![32, 64, 128].includes(group)
    ? [`group ${group}: vLLM's and GPTQModel's AWQ kernels have groups of 32, 64 and 128, or channel`]
    : []),
  ...(out % 64 !== 0 || inputs % 128 !== 0
    ? ['vLLM pads inputs to 128 and outputs to 64 for Marlin; older versions refuse such shapes']
    : []),
  ...(role === 'head' ? ['transformers takes the head of an AWQ checkpoint for plain; vLLM and mlx-lm load it'] : []),
]

export const awq: Format = {
  name: 'awq',
  facts: {
    summary: 'AWQ, GEMM version',
    grids: ['int'],
    bits: [4],
    groups: 'any that divides the inputs (kernels: 32, 64, 128); channel',
    loaders: 'vLLM, SGLang, TGI, transformers (with gptqmodel), AutoAWQ, mlx-lm',
    defaults: { bits: 4, symmetric: false, group: 128 },
    head: true,
    embedding: false,
    fuses: true,
    uniform: true,
  },
  storage: () => ({ decode: 'affine', scaleDtype: 'F16', zeroRange: [0, 15] }),
  refuses,
  warnings,
  layout,
  pack,
  unpack: unpackAwq,
  detect: detectAwq,
  assemble: awqConfig,
}
