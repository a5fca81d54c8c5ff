/** The whole of one linear by the TypeScript reference: what quantize-linear.ts computes with the kernels, for any encoder, slowly. */
import type { ActOrder, CodedLinear, Group } from '../contracts.ts'
import { type GroupParameters, scalarEncoder } from './encoder.ts'
import { bestCandidate, candidatesOf, errorInCodes, type FitRule, normalizedWeighting } from './fit.ts'
import { columnGroups, fitsInSweep, granularity, naturalOrder } from './granularity.ts'
import { rangeOf } from './grid/coder.ts'
import { coderOf, middleOf, reachOf } from './grid/index.ts'
import { gptq } from './rounding/gptq.ts'
import { nearest } from './rounding/nearest.ts'
import { checkSettled, fitStorage, isSettled, settleScales } from './settle.ts'

export interface ReferenceJob extends FitRule {
  readonly group: Group
  /** [in], natural order. */
  readonly weighting?: Float32Array
  /** The largest weight under the global scale, where others stand under it as well. */
  readonly shared?: number
  /** Error feedback; round to nearest without it. */
  readonly feedback?: {
    /** U [in, in], upper triangular, inv(H) = UᵀU, in the sweep's order. */
    readonly factor: Float32Array
    readonly actOrder: ActOrder
    readonly order?: Int32Array
  }
}

/** Float32 scales of all groups, 0 where a group holds zeros only. */
const fittedScales = (W: Float32Array, out: number, inputs: number, job: ReferenceJob): Float32Array => {
  const { groups, size } = granularity(job.group, inputs)
  const coder = coderOf(job.grid, fitStorage(job.storage), 0)
  const weighting = normalizedWeighting(inputs, job.weighting)
  return Float32Array.from({ length: out * groups }, (_, at) => {
    const row = Math.floor(at / groups) * inputs
    const [start, end] = [(at % groups) * size, Math.min(inputs, ((at % groups) + 1) * size)]
    const weights = W.subarray(row + start, row + end)
    const candidates = candidatesOf(rangeOf(weights), job.clip, coder)
    if (candidates.length === 1) return candidates[0].scale
    const errors = candidates.map(each => errorInCodes(weights, weighting.subarray(start, end), each, coder))
    return bestCandidate(candidates, errors, Math.fround).scale
  })
}

/**
 * @param W [out, in], row-major; left as it is
 */
export const quantizeReference = (
  W: Float32Array,
  out: number,
  inputs: number,
  job: ReferenceJob,
): { readonly quantized: CodedLinear; readonly loss: number | undefined } => {
  const { group, weighting, feedback, shared, ...rule } = job
  checkSettled(group, rule)
  const shape = granularity(group, inputs)
  const order = feedback?.order ?? naturalOrder(inputs)
  const settled = isSettled(group, rule)
    ? settleScales(fittedScales(W, out, inputs, job), out, group, rule.storage, reachOf(rule.grid), shared)
    : undefined
  const actOrder = settled ? 'static' : (feedback?.actOrder ?? 'static')
  const groupOf = columnGroups(shape, actOrder, order)
  const given: GroupParameters | undefined = settled && {
    scales: settled.scales,
    offsets: settled.scales.map(() => middleOf(rule.grid)),
  }
  const encoder = scalarEncoder({
    ...rule,
    out,
    groupOf,
    fitUnit: shape.size,
    groups: shape.groups,
    joint: shape.joint,
    given,
  })
  const columns = Array.from({ length: inputs }, (_, column) =>
    Float32Array.from({ length: out }, (_, row) => W[row * inputs + column]),
  )
  const sweep = {
    order,
    weighting: normalizedWeighting(inputs, weighting),
    fitsInSweep: !settled && fitsInSweep(group, actOrder),
    factor: feedback?.factor,
  }
  const loss = (feedback ? gptq : nearest).round(columns, sweep, encoder)
  const { globalScale, nested } = settled ?? {}
  const second = { ...(globalScale === undefined ? {} : { globalScale }), ...(nested ? { nested } : {}) }
  return { quantized: { ...encoder.result(), ...second }, loss }
}
