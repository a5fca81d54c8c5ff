/** The whole of one linear by the TypeScript reference: what quantize-linear.ts computes with the kernels, for any encoder, slowly. */
import type { ActOrder, CodedLinear, Group } from '../contracts.ts'
import { affineEncoder } from './encoder.ts'
import { type FitRule, normalizedWeighting } from './fit.ts'
import { columnGroups, fitsInSweep, granularity, naturalOrder } from './granularity.ts'
import { gptq } from './rounding/gptq.ts'
import { nearest } from './rounding/nearest.ts'

export interface ReferenceJob extends FitRule {
  readonly group: Group
  /** [in], natural order. */
  readonly weighting?: Float32Array
  /** Error feedback; round to nearest without it. */
  readonly feedback?: {
    /** U [in, in], upper triangular, inv(H) = UᵀU, in the sweep's order. */
    readonly factor: Float32Array
    readonly actOrder: ActOrder
    readonly order?: Int32Array
  }
}

/**
 * @param W [out, in], row-major; left as it is
 */
export const quantizeReference = (
  W: Float32Array,
  out: number,
  inputs: number,
  { group, weighting, feedback, ...rule }: ReferenceJob,
): { readonly quantized: CodedLinear; readonly loss: number | undefined } => {
  const shape = granularity(group, inputs)
  const order = feedback?.order ?? naturalOrder(inputs)
  const actOrder = feedback?.actOrder ?? 'static'
  const groupOf = columnGroups(shape, actOrder, order)
  const encoder = affineEncoder({ ...rule, out, groupOf, fitUnit: shape.size, joint: shape.joint })
  const columns = Array.from({ length: inputs }, (_, column) =>
    Float32Array.from({ length: out }, (_, row) => W[row * inputs + column]),
  )
  const sweep = {
    order,
    weighting: normalizedWeighting(inputs, weighting),
    fitsInSweep: fitsInSweep(group, actOrder),
    factor: feedback?.factor,
  }
  const loss = (feedback ? gptq : nearest).round(columns, sweep, encoder)
  return { quantized: encoder.result(), loss }
}
