/**
 * MLX (mlx/ops.cpp, mlx/nn/layers/quantized.py, mlx_lm/utils.py): linears, head and embedding alike. `weight` U32 [out, in·b/32] is a stream of
 * codes along each row, low bits first. Mode affine: W = q · scale + bias, `scales` and `biases` [out, in/g] in the model's dtype; the modes
 * of small floats: W = level[q] · scale, `scales` a byte each.
 */

import type { CodedLinear, Format, LinearScheme, StoredTensor, TensorInfo } from '../contracts.ts'
import { bytesOf } from '../dtype/bytes.ts'
import { packLines, wordsFor } from './bits.ts'
import { assembleMlx } from './mlx-config.ts'
import { groupOf, modeNames, modeOf, modes } from './mlx-modes.ts'
import { detectMlx, unpackMlx } from './mlx-read.ts'
import { scaleBytes } from './scale-bytes.ts'
import { floatBytes, tensorInfo, withData } from './stored.ts'

const modeFor = (scheme: LinearScheme) => modes[modeOf(scheme)!]

const layout = (scheme: LinearScheme): readonly TensorInfo[] => {
  const { name, out, in: inputs, bits, dtype } = scheme
  const groups = inputs / groupOf(scheme)
  const weight = tensorInfo(`${name}.weight`, 'U32', [out, wordsFor(inputs, bits)])
  if (modeFor(scheme).scale) return [weight, tensorInfo(`${name}.scales`, 'U8', [out, groups])]
  return [weight, ...['scales', 'biases'].map(part => tensorInfo(`${name}.${part}`, dtype, [out, groups]))]
}

const pack = (scheme: LinearScheme, { codes, scales, biases }: CodedLinear): readonly StoredTensor[] => {
  const { out, in: inputs, bits, dtype } = scheme
  const { scale } = modeFor(scheme)
  const words = bytesOf(packLines(codes, out, inputs, bits, false))
  const parameters = scale ? [scaleBytes(scales, scale)] : [floatBytes(scales, dtype), floatBytes(biases, dtype)]
  return withData(layout(scheme), [words, ...parameters])
}

const refuses = (scheme: LinearScheme): string | undefined => {
  const { grid, bits, group, in: inputs, actOrder } = scheme
  const name = modeOf(scheme)
  if (!name) return `MLX stores int, ${modeNames.slice(1).join(', ')}, not ${grid}; --grid int would fit`
  const mode = modes[name]
  if (!mode.bits.includes(bits)) return `MLX has codes of ${mode.bits.join(', ')} bits, not of ${bits}`
  if (actOrder === 'g_idx') return 'MLX keeps groups in the order of the inputs; use --act-order static'
  const size = group === 'block' || group === 'tensor' ? 0 : groupOf(scheme)
  if (!mode.groups.includes(size))
    return `MLX has groups of ${mode.groups.join(', ')}, not ${group} of ${inputs} inputs; --group ${mode.usual.group} would fit`
  if (inputs % size === 0) return undefined
  const fitting = mode.groups.filter(other => inputs % other === 0)
  const remedy = fitting.length > 0 ? `--group ${fitting.join(' or ')} would fit` : '--unfit keep leaves it as it is'
  return `groups of ${size} do not divide ${inputs} inputs; ${remedy}`
}

const warnings = (scheme: LinearScheme): readonly string[] => {
  const { since } = modeFor(scheme)
  return since ? [`mode ${modeOf(scheme)} needs mlx ${since} or newer`] : []
}

export const mlx: Format = {
  name: 'mlx',
  facts: {
    summary: 'MLX, for Apple silicon: affine integers, mxfp4, mxfp8, nvfp4',
    grids: ['int', 'mxfp4', 'mxfp8', 'nvfp4'],
    bits: modes.affine.bits,
    groups: 'int: 32, 64, 128; mxfp4 and mxfp8: 32; nvfp4: 16',
    loaders: 'mlx-lm, mlx-vlm, mlx-swift, LM Studio',
    defaults: { bits: 4, symmetric: false, group: 64, embedding: true },
    head: true,
    embedding: true,
  },
  storage: scheme => {
    const { scale } = modeFor(scheme)
    if (scale) return { decode: 'levels', scaleDtype: scale }
    return { decode: 'biased', scaleDtype: scheme.dtype, biasDtype: scheme.dtype }
  },
  refuses,
  warnings,
  layout,
  pack,
  unpack: unpackMlx,
  detect: detectMlx,
  assemble: assembleMlx,
}
