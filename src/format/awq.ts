/**
 * AWQ's GEMM checkpoint (AutoAWQ, awq/modules/linear/gemm.py; read by vLLM, transformers, TGI, SGLang, mlx-lm): 4 bits,
 * W[o, i] = scales[g, o] · (q[i, o] − z[g, o]). `qweight` I32 [in, out/8] and `qzeros` I32 [G, out/8] are packed along the outputs: nibble i
 * of a word holds output 8c + order[i]. Zero points are stored as they are.
 */
import type {
  AssembleFacts,
  CodedLinear,
  Configs,
  Format,
  LinearScheme,
  StoredTensor,
  TensorInfo,
  TensorLookup,
  WeightDtype,
} from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { packLines, unpackLines } from './bits.ts'
import {
  declaredFields,
  type Fields,
  fieldOf,
  flagOf,
  jsonText,
  malformed,
  shownValue,
  wholeOf,
  wordOf,
} from './config-fields.ts'
import { fusedOf } from './fused.ts'
import {
  bytesOf,
  checkStored,
  damaged,
  floatBytes,
  groupRunsOf,
  none,
  partOf,
  readFloats,
  readWords,
  roleOf,
  tensorInfo,
  withData,
} from './stored.ts'
import { transpose } from './transpose.ts'

const called = 'AWQ'

/** The output of an octet that each nibble holds, low nibble first. */
const order = [0, 2, 4, 6, 1, 3, 5, 7] as const

/** Lines of codes [lines, out], each octet of outputs in the nibbles' order. */
const interleaved = (codes: Uint8Array): Uint8Array =>
  Uint8Array.from(codes, (_, i) => codes[i - (i % 8) + order[i % 8]])

const deinterleaved = (codes: Uint8Array): Uint8Array => {
  const result = new Uint8Array(codes.length)
  for (let i = 0; i < codes.length; i++) result[i - (i % 8) + order[i % 8]] = codes[i]
  return result
}

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

const refuses = ({ grid, bits, group, out, actOrder }: LinearScheme): string | undefined => {
  if (grid !== 'int' || bits !== 4)
    return `AWQ stores integers of 4 bits, not ${grid} of ${bits}; --format gptq has 2, 3, 4 and 8`
  if (group === 'tensor' || group === 'block')
    return `AWQ has a scale for each output; use --group 128 or channel, not ${group}`
  if (actOrder === 'g_idx') return 'AWQ keeps groups in the order of the inputs; use --act-order static'
  return out % 8 === 0
    ? undefined
    : `out = ${out} is not a multiple of 8: AWQ packs 8 outputs to a word; --format hqq would fit`
}

const warnings = ({ group, out, in: inputs }: LinearScheme): readonly string[] => [
  ...(typeof group === 'number' && ![32, 64, 128].includes(group)
    ? [`group ${group}: vLLM's and GPTQModel's AWQ kernels have groups of 32, 64 and 128, or channel`]
    : []),
  ...(out % 64 !== 0 || inputs % 128 !== 0
    ? ['vLLM pads inputs to 128 and outputs to 64 for Marlin; older versions refuse such shapes']
    : []),
]

interface Declared {
  readonly groupSize: number
  readonly zeroPoint: boolean
}

/** @throws QuantizeError bad-input for a malformed field, unsupported for another version than GEMM */
const declared = (configs: Configs): Declared | undefined => {
  const fields = declaredFields(configs, 'awq')
  if (!fields) return undefined
  const version = wordOf(fields, 'version')?.toLowerCase() ?? 'gemm'
  if (version !== 'gemm')
    throw new QuantizeError('unsupported', `AWQ version ${shownValue(version)} cannot be read; gemm can`)
  const bits = wholeOf(fields, 'bits', 1, 16) ?? wholeOf(fields, 'w_bit', 1, 16) ?? 4
  if (bits !== 4) throw malformed('bits', bits, '4')
  return { groupSize: groupSizeOf(fields), zeroPoint: flagOf(fields, 'zero_point', true) }
}

const groupSizeOf = (fields: Fields): number => {
  const name = fieldOf(fields, 'group_size') === undefined ? 'q_group_size' : 'group_size'
  const value = wholeOf(fields, name, -1, 2 ** 31) ?? 128
  if (value === 0) throw malformed(name, value, '-1 or a positive integer')
  return value
}

interface Parts<T extends TensorInfo> {
  readonly qweight: T
  readonly qzeros: T
  readonly scales: T
  readonly out: number
  readonly in: number
  readonly groups: number
}

const partsOf = <T extends TensorInfo>(name: string, lookup: (name: string) => T | undefined): Parts<T> => {
  const [qweight, qzeros, scales] = ['qweight', 'qzeros', 'scales'].map(part =>
    partOf(lookup, `${name}.${part}`, called),
  )
  checkStored(qweight, ['I32'], [-1, -1], called)
  const [inputs, words] = qweight.shape
  checkStored(scales, ['F16', 'BF16', 'F32'], [-1, words * 8], called)
  const [groups, out] = scales.shape
  checkStored(qzeros, ['I32'], [groups, words], called)
  if (inputs % groups !== 0) throw damaged(scales, `has ${groups} groups for ${inputs} inputs`, called)
  return { qweight, qzeros, scales, out, in: inputs, groups }
}

const schemeOf = (name: string, parts: Parts<TensorInfo>, { groupSize, zeroPoint }: Declared): LinearScheme => {
  const { out, in: inputs, groups, scales } = parts
  if (groupSize !== -1 && groups !== 1 && inputs / groups !== groupSize)
    throw damaged(scales, `has ${groups} groups for ${inputs} inputs, the config says group_size ${groupSize}`, called)
  return {
    name,
    role: roleOf(name),
    out,
    in: inputs,
    dtype: scales.dtype as WeightDtype,
    grid: 'int',
    bits: 4,
    symmetric: !zeroPoint,
    group: groups === 1 ? 'channel' : inputs / groups,
    groups,
    actOrder: 'none',
  }
}

const detect: Format['detect'] = (tensors, configs) => {
  const config = declared(configs)
  if (!config) return undefined
  const modules = [...tensors.keys()]
    .filter(name => name.endsWith('.qweight'))
    .map(name => name.slice(0, -'.qweight'.length))
  return new Map(
    modules.map(name => [
      name,
      schemeOf(
        name,
        partsOf(name, part => tensors.get(part)),
        config,
      ),
    ]),
  )
}

const unpack = (name: string, tensors: TensorLookup): CodedLinear => {
  const { qweight, qzeros, scales, out, in: inputs, groups } = partsOf(name, tensors)
  const codes = deinterleaved(unpackLines(readWords(qweight, called), inputs, out, 4, false))
  const zeros = deinterleaved(unpackLines(readWords(qzeros, called), groups, out, 4, false))
  return {
    decode: 'affine',
    out,
    in: inputs,
    bits: 4,
    codes: transpose(codes, inputs, out, new Uint8Array(codes.length)),
    scales: transpose(readFloats(scales, called), groups, out, new Float32Array(out * groups)),
    zeros: Float32Array.from(transpose(zeros, groups, out, new Uint8Array(zeros.length))),
    biases: none,
    levels: none,
    groupOf: groupRunsOf(inputs, inputs / groups),
  }
}

/** Module names, of which vLLM looks for substrings: with a dot behind, `layers.1` is not in `layers.10`. */
const skipped = ({ kept, linears }: AssembleFacts): readonly string[] => [
  ...(linears.some(({ role }) => role === 'head') ? [] : ['lm_head']),
  ...kept,
  ...fusedOf(kept),
]

const assemble: Format['assemble'] = (sourceConfig, facts) => {
  const { group, linears } = facts
  const quantization = {
    quant_method: 'awq',
    zero_point: linears.some(({ symmetric }) => !symmetric),
    group_size: typeof group === 'number' ? group : -1,
    bits: 4,
    version: 'gemm',
    modules_to_not_convert: skipped(facts),
  }
  const files = new Map([['quantize_config.json', jsonText(quantization)]])
  if (sourceConfig) files.set('config.json', jsonText({ ...sourceConfig, quantization_config: quantization }))
  return files
}

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
  unpack,
  detect,
  assemble,
}
