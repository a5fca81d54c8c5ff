/**
 * `quant_method: fp8` (DeepSeek-V3, transformers' fine-grained FP8, vLLM's Fp8Config): E4M3 weights, W = fp8 · weight_scale_inv, with one
 * scale a block, a row, or the tensor; despite its name the scale multiplies.
 */
import type { CodedLinear, Configs, Format, LinearScheme, TensorInfo, TensorLookup } from '../contracts.ts'
import { e4m3Values } from '../dtype/small-floats.ts'
import { declaredFields, fieldOf, jsonText, malformed } from './config-fields.ts'
import { fusedOf } from './fused.ts'
import {
  checkStored,
  damaged,
  floatBytes,
  groupRunsOf,
  none,
  partOf,
  readBytes,
  readFloats,
  roleOf,
  tensorInfo,
  withData,
} from './stored.ts'

const called = 'FP8'
const levels = e4m3Values()

/** Rows and columns of a block. */
type Block = readonly [number, number]

/** @returns the declared block, null for a scale a row or tensor; undefined when the config declares another method */
const declaredBlock = (configs: Configs): Block | null | undefined => {
  const fields = declaredFields(configs, 'fp8')
  if (!fields) return undefined
  const size = fieldOf(fields, 'weight_block_size')
  if (size === undefined) return null
  const isSize = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 1
  if (!Array.isArray(size) || size.length !== 2 || !size.every(isSize))
    throw malformed('weight_block_size', size, 'two sizes')
  return [size[0], size[1]]
}

/** GPTQModel's way to write it: W = fp8 / weight_scale_inv. */
const divides = (configs: Configs): boolean => {
  const fields = declaredFields(configs, 'fp8')
  return fields !== undefined && fieldOf(fields, 'weight_scale_semantics') === 'inverse'
}

/** The scale's tensor: transformers' name, or vLLM's of one scale a tensor. */
const scaleOf = <T extends TensorInfo>(name: string, lookup: (name: string) => T | undefined): T =>
  lookup(`${name}.weight_scale_inv`) ?? partOf(lookup, `${name}.weight_scale`, called)

interface Geometry {
  readonly out: number
  readonly in: number
  /** Of the scales. */
  readonly rows: number
  readonly columns: number
  readonly block: Block
}

/** @throws QuantizeError bad-input for scales of another shape than the block gives */
const geometryOf = (weight: TensorInfo, scale: TensorInfo, declared: Block | null): Geometry => {
  checkStored(weight, ['F8_E4M3'], [-1, -1], called)
  checkStored(
    scale,
    ['F32', 'BF16', 'F16'],
    scale.shape.map(() => -1),
    called,
  )
  const [out, inputs] = weight.shape
  const [rows = 1, columns = 1] = scale.shape
  const block: Block = declared ?? [Math.ceil(out / rows), inputs]
  if (rows !== Math.ceil(out / block[0]) || columns !== Math.ceil(inputs / block[1]) || scale.shape.length > 2)
    throw damaged(scale, `has shape [${scale.shape}], which no blocks of ${block} give for [${out}, ${inputs}]`, called)
  return { out, in: inputs, rows, columns, block }
}

const groupOf = ({ out, in: inputs, rows, block }: Geometry): LinearScheme['group'] => {
  if (block[0] === 128 && block[1] === 128) return 'block'
  if (block[1] < inputs) return block[1]
  return rows === 1 && out > 1 ? 'tensor' : 'channel'
}

/** Loaders divide a weight evenly into the blocks that it has scales for (transformers, Fp8Dequantize; vLLM refuses others). */
const hasPartBlocks = (size: number): boolean => size > 128 && size % 128 !== 0

const refuses = ({ grid, group, actOrder, out, in: inputs }: LinearScheme): string | undefined => {
  if (grid !== 'fp8') return `quant_method fp8 stores FP8, not ${grid}; use --grid fp8`
  if (actOrder === 'g_idx') return 'FP8 keeps blocks in the order of the inputs; use --act-order static'
  if (group !== 'block' && group !== 'tensor')
    return `fp8 has a scale a block or a tensor; use --group block, not ${group}`
  return group === 'block' && (hasPartBlocks(out) || hasPartBlocks(inputs))
    ? `[${out}, ${inputs}] is no whole number of blocks of 128 × 128, which its loaders want; use --group tensor, or --format compressed-tensors`
    : undefined
}

const layout = ({ name, out, in: inputs, group, groups }: LinearScheme): readonly TensorInfo[] => [
  tensorInfo(`${name}.weight`, 'F8_E4M3', [out, inputs]),
  tensorInfo(`${name}.weight_scale_inv`, 'F32', group === 'block' ? [Math.ceil(out / 128), groups] : [1, 1]),
]

const pack: Format['pack'] = (scheme, { codes, scales }) => {
  const { out, groups, group } = scheme
  const rows = group === 'block' ? Math.ceil(out / 128) : 1
  const stored = Float32Array.from(
    { length: rows * groups },
    (_, i) => scales[Math.floor(i / groups) * 128 * groups + (i % groups)],
  )
  return withData(layout(scheme), [codes, floatBytes(stored, 'F32')])
}

const unpack = (name: string, tensors: TensorLookup, configs: Configs): CodedLinear => {
  const weight = partOf(tensors, `${name}.weight`, called)
  const scale = scaleOf(name, tensors)
  const { out, in: inputs, columns, block } = geometryOf(weight, scale, declaredBlock(configs) ?? null)
  const given = readFloats(scale, called)
  if (divides(configs) && given.includes(0)) throw damaged(scale, 'holds a 0, by which weights are divided', called)
  const stored = divides(configs) ? given.map(value => 1 / value) : given
  const codes = readBytes(weight, called)
  const broken = codes.findIndex(code => (code & 127) === 127)
  if (broken >= 0) throw damaged(weight, `holds a NaN at element ${broken}`, called)
  const scales = Float32Array.from({ length: out * columns }, (_, i) => {
    const row = Math.floor(i / columns)
    return stored[Math.floor(row / block[0]) * columns + (i % columns)]
  })
  return {
    decode: 'levels',
    out,
    in: inputs,
    bits: 8,
    codes,
    scales,
    zeros: none,
    biases: none,
    levels,
    groupOf: groupRunsOf(inputs, block[1]),
  }
}

export const fp8: Format = {
  name: 'fp8',
  facts: {
    summary: 'FP8 in blocks of 128 x 128, as DeepSeek-V3 is published',
    grids: ['fp8'],
    bits: [8],
    groups: 'block, tensor',
    loaders: 'vLLM, SGLang, transformers (on CPUs and older GPUs decoded when loaded)',
    defaults: { grid: 'fp8', group: 'block' },
    head: false,
    embedding: false,
    fuses: true,
    uniform: true,
  },
  storage: () => ({ decode: 'levels', scaleDtype: 'F32' }),
  refuses,
  warnings: ({ out }) =>
    out % 128 === 0 ? [] : [`out = ${out} is not a multiple of 128: vLLM does not fuse such a linear with others`],
  layout,
  pack,
  unpack,
  detect(tensors, configs) {
    const block = declaredBlock(configs)
    if (block === undefined) return undefined
    const linears = new Map<string, LinearScheme>()
    for (const [tensor, weight] of tensors) {
      if (!tensor.endsWith('.weight') || weight.dtype !== 'F8_E4M3') continue
      const name = tensor.slice(0, -'.weight'.length)
      const geometry = geometryOf(
        weight,
        scaleOf(name, part => tensors.get(part)),
        block,
      )
      const { out, in: inputs, columns: groups } = geometry
      const group = groupOf(geometry)
      const grid = { grid: 'fp8', bits: 8, symmetric: true } as const
      linears.set(name, {
        name,
        role: roleOf(name),
        out,
        in: inputs,
        dtype: 'BF16',
        ...grid,
        group,
        groups,
        actOrder: 'none',
      })
    }
    return linears
  },
  assemble(sourceConfig, { kept, group }) {
    const quantization = {
      quant_method: 'fp8',
      activation_scheme: 'dynamic',
      weight_block_size: group === 'block' ? [128, 128] : null,
      modules_to_not_convert: ['lm_head', ...kept, ...fusedOf(kept)],
    }
    if (!sourceConfig) return new Map([['quantize_config.json', jsonText(quantization)]])
    return new Map([['config.json', jsonText({ ...sourceConfig, quantization_config: quantization })]])
  },
}
