/** Ops that are one operator each, in graphs of ours and in exported ones: the same node, the same values. */
import type { NodeProto } from 'onnx-buf'
import type { ActivationKind, Op } from '../../contracts.ts'
import { microsoft, node } from './onnx.ts'

export type OpOf<Kind extends Op['op']> = Op & { readonly op: Kind }
export type Norm = OpOf<'norm'>
export type Sum = Extract<Op, { readonly a: string }>
/** An op, or an addition with the norm of its sum. */
export type Step = { readonly op: Op; readonly norm?: Norm }

/** Pairs each addition with the norm of its sum: the two pass over memory once. */
export const pairNorms = (ops: readonly Op[]): readonly Step[] => {
  const norms = ops.filter(op => op.op === 'norm')
  const steps = ops.map(op => ({ op, norm: op.op === 'add' ? norms.find(({ x }) => x === op.y) : undefined }))
  const paired = new Set<Op | undefined>(steps.map(({ norm }) => norm))
  return steps.filter(({ op }) => !paired.has(op))
}

export const activationNode = (kind: ActivationKind, x: string, y: string): NodeProto => {
  if (kind === 'relu') return node('Relu', [x], [y])
  if (kind === 'silu') return node('QuickGelu', [x], [y], { alpha: { float: 1 } }, microsoft)
  return node(kind === 'gelu' ? 'Gelu' : 'FastGelu', [x], [y], {}, microsoft)
}

export const normNode = ({ kind, x, y, eps }: Norm, parameters: readonly string[]): NodeProto =>
  node(kind === 'rms' ? 'SimplifiedLayerNormalization' : 'LayerNormalization', [x, ...parameters], [y], {
    axis: -1,
    epsilon: { float: eps },
  })

export const skipNormNode = (add: Sum, { kind, y, eps }: Norm, parameters: readonly string[]): NodeProto =>
  node(
    kind === 'rms' ? 'SkipSimplifiedLayerNormalization' : 'SkipLayerNormalization',
    [add.a, add.b, ...parameters],
    [y, '', '', add.y],
    { epsilon: { float: eps } },
    microsoft,
  )
