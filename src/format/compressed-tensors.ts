/** compressed-tensors (vllm-project/compressed-tensors; read by vLLM, transformers, SGLang): integers, FP8, NVFP4, MXFP4, MXFP8. */
import type {
  ActivationScheme,
  Bits,
  CodedLinear,
  Format,
  GridName,
  LinearScheme,
  TensorInfo,
  TensorLookup,
  TensorSource,
} from '../contracts.ts'
import { isWeightDtype, toFloat32 } from '../dtype/convert.ts'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'
import { wordsFor } from './bits.ts'
import { ctConfig, type DeclaredArgs, type DeclaredGroup, declaredGroups, groupOf } from './ct-config.ts'
import { codecs, type Kind, kindOf, packKind, storedKind } from './ct-kinds.ts'
import { checkStored, damaged, partOf, readBytes, roleOf } from './stored.ts'

const called = 'compressed-tensors'

const refuses = ({ grid, bits, symmetric, group, activations, actOrder }: LinearScheme): string | undefined => {
  if (actOrder === 'g_idx' && (grid !== 'int' || activations))
    return '--act-order g_idx is of weight-only integers; use --act-order static'
  if (grid === 'nvfp4' || grid === 'mxfp4' || grid === 'mxfp8') {
    if (activations) return `activations beside ${grid} weights are not declared yet; leave --activations out`
    const size = grid === 'nvfp4' ? 16 : 32
    return group === size ? undefined : `${grid} has groups of ${size}; leave --group out`
  }
  if (grid === 'fp8') {
    if (activations && activations.grid !== 'fp8')
      return 'FP8 weights go with FP8 activations; use --activations fp8, or none'
    return typeof group === 'number'
      ? `FP8 has a scale a channel, a tensor or a block; use --group channel, tensor or block, not ${group}`
      : undefined
  }
  if (grid !== 'int') return `compressed-tensors stores int, fp8, nvfp4, mxfp4 and mxfp8, not ${grid}`
  if (activations) {
    if (activations.grid !== 'int8')
      return 'integer weights go with integer activations; use --activations int8, or none'
    if (bits !== 8 || !symmetric) return 'quantized activations go with symmetric weights of 8 bits; use --bits 8 --sym'
    return group === 'channel' || group === 'tensor'
      ? undefined
      : `with quantized activations a weight has one scale a channel; use --group channel, not ${group}`
  }
  if (bits < 2) return `packed integers have 2 to 8 bits, not ${bits}`
  return group === 'tensor' || group === 'block'
    ? `packed integers have groups of columns; use --group 128 or channel, not ${group}`
    : undefined
}

const warnings = ({ grid, bits, symmetric, actOrder, groups, activations }: LinearScheme): readonly string[] => [
  ...(grid === 'int' && !symmetric
    ? [
        'asymmetric pack-quantized: vLLM loads it; transformers 5.23 with compressed-tensors 0.20 does not (transformers 4.5x does)',
      ]
    : []),
  ...(grid === 'int' && !activations && bits !== 4 && bits !== 8
    ? [`${bits} bits: transformers decompresses them; vLLM has fast kernels for 4 and 8 bits only`]
    : []),
  ...(grid === 'int' && typeof activations?.granularity === 'number'
    ? ['int8 inputs in groups: transformers computes them; vLLM has kernels for a scale a token or a tensor only']
    : []),
  ...(actOrder === 'g_idx' && groups > 1
    ? ['--act-order g_idx: vLLM 0.33 refuses it; --act-order static loads everywhere at the same cost']
    : []),
]

/** The bytes of a tensor that holds one value. */
const oneValue = (tensor: TensorSource): Uint8Array => {
  if (tensor.bytes > 16) throw damaged(tensor, `has ${tensor.bytes} bytes, more than one value`, called)
  return readBytes(tensor, called)
}

/** Of a static scheme: the stored scale. */
const staticScale = (
  name: string,
  tensors: ReadonlyMap<string, TensorSource>,
): Pick<ActivationScheme, 'scale' | 'zero'> => {
  const scale = partOf(part => tensors.get(part), `${name}.input_scale`, called)
  const zero = tensors.get(`${name}.input_zero_point`)
  return {
    scale: toFloat32(oneValue(scale), scale.dtype)[0],
    ...(zero ? { zero: (oneValue(zero)[0] << 24) >> 24 } : {}),
  }
}

/** Of NVFP4: the stored divisor of the scales of groups, unless it comes with the values, too. */
const staticGlobal = (
  name: string,
  tensors: ReadonlyMap<string, TensorSource>,
): Pick<ActivationScheme, 'globalScale'> => {
  const divisor = tensors.get(`${name}.input_global_scale`)
  if (!divisor) return {}
  const [globalScale] = toFloat32(oneValue(divisor), divisor.dtype)
  if (!(globalScale > 0 && Number.isFinite(globalScale))) throw damaged(divisor, `is ${globalScale}`, called)
  return { globalScale }
}

/** Microscaling is what has groups of 32 and exponents for scales (mxfp_utils.py, should_generate_mx_scales); with 4 bits older configs do not name their dtype. */
const inputGrid = ({ bits, type, strategy, groupSize, scaleDtype }: DeclaredArgs): ActivationScheme['grid'] => {
  if (type === 'int') return bits === 4 ? 'int4' : 'int8'
  if (bits === 4) return strategy === 'tensor_group' ? 'nvfp4' : 'mxfp4'
  return groupSize === 32 && scaleDtype === 'torch.uint8' ? 'mxfp8' : 'fp8'
}

const activationsOf = (
  name: string,
  { input }: DeclaredGroup,
  tensors: ReadonlyMap<string, TensorSource>,
): ActivationScheme | undefined => {
  if (!input) return undefined
  const { bits, symmetric, strategy, groupSize, dynamic } = input
  if (bits !== 4 && bits !== 8)
    throw new QuantizeError('unsupported', `${printable(name)}: activations of ${bits} bits are not read; 4 and 8 are`)
  const grid = inputGrid(input)
  const granularity = groupSize ?? (strategy === 'token' ? 'token' : 'tensor')
  const stored = dynamic ? (grid === 'nvfp4' ? staticGlobal(name, tensors) : {}) : staticScale(name, tensors)
  return { grid, symmetric, granularity, dynamic, ...stored }
}

const grids: Readonly<Record<Kind, GridName>> = {
  'pack-quantized': 'int',
  'int-quantized': 'int',
  'float-quantized': 'fp8',
  'nvfp4-pack-quantized': 'nvfp4',
  'mxfp4-pack-quantized': 'mxfp4',
  'mxfp8-quantized': 'mxfp8',
}

/** Whether a group's arguments can be those of a module of that kind. */
const fitsKind = (kind: Kind, { bits, type }: DeclaredArgs): boolean => {
  if ((grids[kind] === 'int') !== (type === 'int')) return false
  return (
    kind === 'pack-quantized' || bits === (kind === 'nvfp4-pack-quantized' || kind === 'mxfp4-pack-quantized' ? 4 : 8)
  )
}

/** [out, in] of a packed weight: as `weight_shape` says, or as many codes as fill its words. */
const packedShape = (
  name: string,
  tensors: ReadonlyMap<string, TensorSource>,
  bits: number,
): readonly [number, number] => {
  const packed = partOf(part => tensors.get(part), `${name}.weight_packed`, called)
  checkStored(packed, ['I32'], [-1, -1], called)
  const [out, words] = packed.shape
  const shape = tensors.get(`${name}.weight_shape`)
  if (!shape) return [out, Math.floor((words * 32) / bits)]
  checkStored(shape, ['I64'], [2], called)
  const bytes = readBytes(shape, called)
  const [rows, columns] = new BigInt64Array(bytes.buffer as ArrayBuffer, bytes.byteOffset, 2)
  const inputs = Number(columns)
  if (rows !== BigInt(out) || inputs < 1 || inputs > 2 ** 31) throw damaged(shape, `says [${rows}, ${columns}]`, called)
  if (wordsFor(inputs, bits as Bits) === words) return [out, inputs]
  if (Math.ceil(inputs / Math.floor(32 / bits)) === words)
    throw new QuantizeError(
      'unsupported',
      `${printable(name)}: ${bits}-bit codes packed by compressed-tensors before 0.13 are not read`,
    )
  throw damaged(packed, `has ${words} words a row for ${inputs} codes of ${bits} bits`, called)
}

const weightShape = (
  name: string,
  tensors: ReadonlyMap<string, TensorSource>,
  kind: Kind,
  bits: number,
): readonly [number, number] => {
  if (kind === 'pack-quantized') return packedShape(name, tensors, bits)
  const packed = kind === 'nvfp4-pack-quantized' || kind === 'mxfp4-pack-quantized'
  const weight = partOf(part => tensors.get(part), `${name}.${packed ? 'weight_packed' : 'weight'}`, called)
  checkStored(weight, [packed ? 'U8' : kind === 'int-quantized' ? 'I8' : 'F8_E4M3'], [-1, -1], called)
  return [weight.shape[0], packed ? 2 * weight.shape[1] : weight.shape[1]]
}

/** How weights share scales: as declared, checked against the scales' shape. */
const groupSizeOf = (
  scale: TensorInfo,
  { strategy, groupSize }: DeclaredArgs,
  out: number,
  inputs: number,
): Pick<LinearScheme, 'group' | 'groups'> => {
  const [rows, groups = 1] = scale.shape
  const wrong = () =>
    damaged(
      scale,
      `has shape [${scale.shape}], which strategy ${printable(strategy)} does not give for [${out}, ${inputs}]`,
      called,
    )
  if (strategy === 'tensor') {
    if (scale.shape.length > 1 || rows !== 1) throw wrong()
    return { group: 'tensor', groups: 1 }
  }
  if (strategy === 'block') {
    if (rows !== Math.ceil(out / 128) || groups !== Math.ceil(inputs / 128)) throw wrong()
    return { group: 'block', groups }
  }
  if (rows !== out || scale.shape.length !== 2) throw wrong()
  if (strategy === 'channel' && groups === 1) return { group: 'channel', groups: 1 }
  if ((strategy === 'group' || strategy === 'tensor_group') && groupSize !== undefined && groups === inputs / groupSize)
    return { group: groupSize, groups }
  throw wrong()
}

const schemeOf = (
  name: string,
  kind: Kind,
  groups: readonly DeclaredGroup[],
  tensors: ReadonlyMap<string, TensorSource>,
): LinearScheme => {
  const group = groupOf(groups, name, ({ weights }) => fitsKind(kind, weights))
  const { weights } = group
  if (!fitsKind(kind, weights) || weights.bits > 8)
    throw new QuantizeError(
      'bad-input',
      `${printable(name)} is stored as ${kind}, its group says ${weights.type} of ${weights.bits} bits`,
    )
  const [out, inputs] = weightShape(name, tensors, kind, weights.bits)
  const scale = partOf(part => tensors.get(part), `${name}.weight_scale`, called)
  return {
    name,
    role: roleOf(name),
    out,
    in: inputs,
    dtype: isWeightDtype(scale.dtype) ? scale.dtype : 'BF16',
    grid: grids[kind],
    bits: weights.bits as Bits,
    symmetric: weights.symmetric,
    ...groupSizeOf(scale, weights, out, inputs),
    actOrder: tensors.has(`${name}.weight_g_idx`) ? 'g_idx' : 'none',
    activations: activationsOf(name, group, tensors),
  }
}

const detect = (
  tensors: ReadonlyMap<string, TensorSource>,
  groups: readonly DeclaredGroup[],
): ReadonlyMap<string, LinearScheme> => {
  const linears = new Map<string, LinearScheme>()
  for (const tensor of tensors.keys()) {
    if (!tensor.endsWith('.weight_scale')) continue
    const name = tensor.slice(0, -'.weight_scale'.length)
    const kind = storedKind(name, tensors)
    if (kind) linears.set(name, schemeOf(name, kind, groups, tensors))
  }
  return linears
}

/** One module's own tensors as `detect` takes them. */
const partsOf = (name: string, lookup: TensorLookup): ReadonlyMap<string, TensorSource> => {
  const parts = [
    'weight',
    'weight_packed',
    'weight_scale',
    'weight_shape',
    'weight_global_scale',
    'weight_g_idx',
    'input_scale',
    'input_zero_point',
    'input_global_scale',
  ]
  return new Map(
    parts.flatMap(part => {
      const tensor = lookup(`${name}.${part}`)
      return tensor ? [[tensor.name, tensor] as const] : []
    }),
  )
}

export const compressedTensors: Format = {
  name: 'compressed-tensors',
  facts: {
    summary: 'compressed-tensors: integers, FP8, NVFP4, MXFP4, MXFP8; activations declared',
    grids: ['int', 'fp8', 'nvfp4', 'mxfp4', 'mxfp8'],
    bits: [2, 3, 4, 5, 6, 7, 8],
    groups:
      'int: any that divides the inputs, channel; with activations: channel, tensor; fp8: channel, tensor, block; nvfp4: 16; mx: 32',
    loaders: 'vLLM, SGLang, transformers (with compressed-tensors 0.15 or newer)',
    head: true,
    embedding: false,
    fuses: true,
    activations: true,
  },
  storage: scheme => codecs[kindOf(scheme)].storage(scheme),
  refuses,
  warnings,
  layout: scheme => codecs[kindOf(scheme)].layout(scheme),
  pack: packKind,
  unpack(name, tensors, configs): CodedLinear {
    const parts = partsOf(name, tensors)
    const kind = storedKind(name, parts)
    if (!kind)
      throw new QuantizeError(
        'bad-input',
        `${printable(name)}: holds no weight with scales; not a sound ${called} checkpoint`,
      )
    return codecs[kind].unpack(schemeOf(name, kind, declaredGroups(configs) ?? [], parts), tensors)
  },
  detect(tensors, configs) {
    const groups = declaredGroups(configs)
    return groups && detect(tensors, groups)
  },
  assemble: ctConfig,
}
