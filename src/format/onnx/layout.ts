/** How MatMulNBits keeps a linear: names, dtypes and shapes of its tensors, and what it cannot hold (onnxruntime, ContribOperators.md). */
import type { Bits, LinearScheme, TensorInfo } from '../../contracts.ts'
import { type Dtype, dtypeBits } from '../../dtype/dtype.ts'

export const supportedBits: readonly Bits[] = [2, 4, 8]
export const supportedGroups: readonly number[] = [16, 32, 64, 128, 256]

export const isSupportedBits = (bits: number): bits is 2 | 4 | 8 => (supportedBits as readonly number[]).includes(bits)

/** Names of a module's tensors. */
export const partNames = (module: string, bits: Bits) => ({
  codes: `${module}.weight_Q${bits}`,
  scales: `${module}.weight_scales`,
  zeros: `${module}.weight_zero_points`,
})

const tensor = (name: string, dtype: Dtype, shape: readonly number[]): TensorInfo => ({
  name,
  dtype,
  shape,
  bytes: (shape.reduce((product, size) => product * size, 1) * dtypeBits[dtype]) / 8,
})

/** Bytes of a row's packed zero points. */
export const zeroBytes = (groups: number, bits: Bits): number => Math.ceil((groups * bits) / 8)

type Geometry = Pick<LinearScheme, 'name' | 'dtype' | 'out' | 'in' | 'bits' | 'symmetric' | 'groups'>

/** Scales are of the dtype in which the graph computes: half precision only where the model is in it. */
export const scaleDtype = ({ dtype }: Pick<LinearScheme, 'dtype'>): 'F16' | 'F32' => (dtype === 'F16' ? 'F16' : 'F32')

/**
 * `weight_Q<b>` [out, G, g·b/8], codes of a group low bits first; `weight_scales` [out, G]; without --sym `weight_zero_points`
 * [out, ⌈G·b/8⌉], a row's packed alike. In all b + 32/g bits a weight (F16 scales: b + 16/g), asymmetric b/g more where rows fill bytes.
 */
export const onnxLayout = (scheme: Geometry): readonly TensorInfo[] => {
  const { name, out, in: inputs, bits, groups, symmetric } = scheme
  const names = partNames(name, bits)
  return [
    tensor(names.codes, 'U8', [out, groups, ((inputs / groups) * bits) / 8]),
    tensor(names.scales, scaleDtype(scheme), [out, groups]),
    ...(symmetric ? [] : [tensor(names.zeros, 'U8', [out, zeroBytes(groups, bits)])]),
  ]
}

/** One sentence on why MatMulNBits cannot hold this linear, with what it can. */
export const onnxRefusal = ({
  role,
  grid,
  bits,
  symmetric,
  group,
  groups,
  actOrder,
}: LinearScheme): string | undefined => {
  if (grid !== 'int') return `ONNX's MatMulNBits holds integers, not ${grid}; --grid int would fit`
  if (!isSupportedBits(bits)) return `ONNX's MatMulNBits holds codes of 2, 4 or 8 bits, not of ${bits}`
  if (typeof group !== 'number' || !supportedGroups.includes(group))
    return `ONNX's MatMulNBits takes groups of ${supportedGroups.join(', ')}, not ${group}; --group 32 would fit`
  if (actOrder === 'g_idx' && groups > 1)
    return "ONNX's MatMulNBits has groups of neighbouring inputs only; --act-order static would fit"
  if (role === 'embedding' && !symmetric && (groups * bits) % 8 !== 0)
    return `zero points of ${groups} groups of ${bits} bits end inside a byte, which ONNX Runtime before 1.28 reads wrongly in an embedding; --sym would fit`
  return undefined
}

/** Sentences on runtimes that do not load it, without the linear's name (each version of ONNX Runtime was run on the CPU). */
export const onnxWarnings = ({ bits, dtype, role }: LinearScheme): readonly string[] => [
  ...(bits === 2
    ? [
        `2-bit MatMulNBits needs ONNX Runtime ${dtype === 'F16' ? '1.28' : '1.24'} on the CPU; its CUDA provider has 4 and 8 bits`,
      ]
    : []),
  ...(bits === 8 ? ['8-bit MatMulNBits needs ONNX Runtime 1.23'] : []),
  ...(role === 'embedding' ? ['a quantized embedding (GatherBlockQuantized) needs ONNX Runtime 1.23'] : []),
]
