/**
 * Scales that fit their codes. Each parameter of a row takes, one after another, the value that makes tr(ΔW·H·ΔWᵀ) least, all others as
 * they are, as far as its dtype holds it; the error never grows. With b what a unit of the parameter adds to the row's weights, the best
 * change is −(ΔW·H·bᵀ) / (b·H·bᵀ).
 */
import type { CodedLinear, Group, Storage, SuperBlocks } from '../contracts.ts'
import { isWeightDtype } from '../dtype/convert.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { accumulate, multiply, safeThreads, square } from '../engine/ort/products.ts'
import type { Engine } from '../engine/ort/session.ts'
import { layoutOf } from '../gguf/block-layouts.ts'
import { codedOf } from '../gguf/coded.ts'
import { type GgmlTypeName, ggmlTypes } from '../gguf/types.ts'
import { roundSigned, scaleDtypes } from './storage.ts'

export interface ScalesJob {
  readonly group: Group
  readonly storage: Storage
  /** Of a linear in super-blocks. */
  readonly type?: GgmlTypeName
  /** Of a symmetric grid under biases: the code that stands for 0, which ties them to the scales. */
  readonly middle?: number
  /** H, [in, in], symmetric. */
  readonly hessian: Float32Array
  /** ΔW, [out, in]: what the codes stand for, minus what is wanted. */
  readonly delta: Float32Array
}

/** The same linear with other scales and minima; as it is where its scales are shared between rows, coarse, or quantized in a way that is not ggml's. */
export const refineScales = async (engine: Engine, linear: CodedLinear, job: ScalesJob): Promise<CodedLinear> => {
  const { group, storage, type, middle } = job
  if (linear.superBlocks) return refineSuperBlocks(await createSteps(engine, linear, job), linear, type!)
  const joint = group === 'tensor' || group === 'block'
  const coarse = !isWeightDtype(storage.scaleDtype)
  if (joint || storage.second || coarse) return linear
  return refineGroups(await createSteps(engine, linear, job), linear, storage, middle)
}

/** Weights [width, out] by which a parameter counts: b of each row, column by column. */
type Basis = Float32Array

interface Steps {
  /** b where the parameter is what codes are multiplied with: what the codes of columns [start, start + width) stand for, times a factor. */
  codes(start: number, width: number, factor?: FactorAt): Basis
  /** b where it is added to the weights. */
  ones(start: number, width: number, factor?: FactorAt): Basis
  /** Changes one parameter of each row. @param settle from the changes that would be best, [out], to those that are made */
  step(start: number, basis: Basis, settle: (wanted: Float32Array) => Float32Array): Promise<void>
}

type FactorAt = (row: number, column: number) => number

const createSteps = async (
  engine: Engine,
  { out, in: n, codes, levels, decode, scales, zeros, groupOf }: CodedLinear,
  { hessian, delta, middle = 0 }: ScalesJob,
): Promise<Steps> => {
  const groups = scales.length / out
  /** Sᵀ = −H·ΔWᵀ, [in, out], kept up to date. */
  const slopes = new Float32Array(n * out)
  const deltas = { data: delta, rows: out, columns: n }
  await multiply(engine, 'NT', square(hessian), deltas, slopes, -1, safeThreads(n, out))
  const basisOf = (start: number, width: number, valueAt: FactorAt): Basis => {
    const basis = new Float32Array(width * out)
    for (let row = 0; row < out; row++) for (let j = 0; j < width; j++) basis[j * out + row] = valueAt(row, start + j)
    return basis
  }
  const unitAt: FactorAt = (row, column) => {
    const code = codes[row * n + column]
    if (decode === 'levels') return levels[code]
    return code - (decode === 'affine' ? zeros[row * groups + groupOf[column]] : middle)
  }
  return {
    codes: (start, width, factor) =>
      basisOf(start, width, factor ? (row, column) => unitAt(row, column) * factor(row, column) : unitAt),
    ones: (start, width, factor = () => 1) => basisOf(start, width, factor),
    async step(start, basis, settle) {
      const width = basis.length / out
      const block = new Float32Array(width * width)
      for (let j = 0; j < width; j++) {
        const from = (start + j) * n + start
        block.set(hessian.subarray(from, from + width), j * width)
      }
      const product = new Float32Array(width * out)
      const basisMatrix = { data: basis, rows: width, columns: out }
      await multiply(engine, 'NN', square(block), basisMatrix, product, -1, safeThreads(width, out))
      const slope = new Float64Array(out)
      const curvature = new Float64Array(out)
      for (let at = 0, row = 0; at < basis.length; at++, row = row + 1 === out ? 0 : row + 1) {
        slope[row] += slopes[start * out + at] * basis[at]
        curvature[row] -= product[at] * basis[at]
      }
      const wanted = Float32Array.from(slope, (value, row) => (curvature[row] > 0 ? value / curvature[row] : 0))
      const changes = settle(wanted)
      for (let at = 0, row = 0; at < basis.length; at++, row = row + 1 === out ? 0 : row + 1) basis[at] *= changes[row]
      const rows = { data: hessian.subarray(start * n, (start + width) * n), rows: width, columns: n }
      await accumulate(engine, 'TN', rows, basisMatrix, slopes, -1)
    },
  }
}

/** Changes floats of a dtype, one a row; scales keep their sign, and stay what they are where the dtype cannot hold a better one. */
const changeFloats =
  (values: Float32Array, at: (row: number) => number, dtype: WeightDtype, isScale: boolean) =>
  (wanted: Float32Array): Float32Array =>
    wanted.map((change, row) => {
      const before = values[at(row)]
      const after = roundSigned(Math.fround(before + change), dtype)
      const { smallest, largest } = scaleDtypes[dtype]
      const held = Math.abs(after) <= largest && (!isScale || (before * after > 0 && Math.abs(after) >= smallest))
      if (!held) return 0
      values[at(row)] = after
      return after - before
    })

const refineGroups = async (
  steps: Steps,
  linear: CodedLinear,
  { scaleDtype, biasDtype = 'F32' }: Storage,
  middle: number | undefined,
): Promise<CodedLinear> => {
  const { out, in: n, decode } = linear
  const groups = linear.scales.length / out
  const width = n / groups
  const [scales, biases] = [linear.scales.slice(), linear.biases.slice()]
  for (let group = 0; group < groups; group++) {
    const at = (row: number): number => row * groups + group
    const start = group * width
    await steps.step(start, steps.codes(start, width), changeFloats(scales, at, scaleDtype as WeightDtype, true))
    if (decode === 'biased' && middle === undefined)
      await steps.step(start, steps.ones(start, width), changeFloats(biases, at, biasDtype, false))
  }
  return { ...linear, scales, biases: middle === undefined ? biases : scales.map(scale => -middle * scale) }
}

/** Changes whole multiples of floats, one a row. */
const changeMultiples =
  (
    multiples: SuperBlocks['scaleCodes'],
    at: (row: number) => number,
    factorAt: (row: number) => number,
    [least, most]: readonly [number, number],
  ) =>
  (wanted: Float32Array): Float32Array =>
    wanted.map((change, row) => {
      const factor = factorAt(row)
      if (factor === 0) return 0
      const before = multiples[at(row)]
      const after = Math.max(least, Math.min(most, Math.round(before + change / factor)))
      multiples[at(row)] = after
      return (after - before) * factor
    })

/** Sub-blocks first, then the floats of their super-block. */
const refineSuperBlocks = async (steps: Steps, linear: CodedLinear, type: GgmlTypeName): Promise<CodedLinear> => {
  const { out, in: n, decode, codes } = linear
  const { group, scales } = layoutOf(type)!
  const size = ggmlTypes[type].block
  const [groups, supers] = [n / group, n / size]
  const [d, dmin] = [linear.superBlocks!.d.slice(), linear.superBlocks!.dmin.slice()]
  const [scaleCodes, minCodes] = [linear.superBlocks!.scaleCodes.slice(), linear.superBlocks!.minCodes.slice()]
  const codeAt: FactorAt = (row, column) => row * groups + Math.floor(column / group)
  for (let index = 0; index < supers; index++) {
    const superAt = (row: number): number => row * supers + index
    for (let start = index * size; start < (index + 1) * size; start += group) {
      const at = (row: number): number => codeAt(row, start)
      const scale = changeMultiples(scaleCodes, at, row => d[superAt(row)], scales!.range)
      await steps.step(start, steps.codes(start, group), scale)
      if (decode !== 'biased') continue
      const minimum = changeMultiples(minCodes, at, row => -dmin[superAt(row)], scales!.range)
      await steps.step(start, steps.ones(start, group), minimum)
    }
    const first = index * size
    const ofScales = steps.codes(first, size, (row, column) => scaleCodes[codeAt(row, column)])
    await steps.step(first, ofScales, changeFloats(d, superAt, 'F16', true))
    if (decode !== 'biased') continue
    const ofMinima = steps.ones(first, size, (row, column) => -minCodes[codeAt(row, column)])
    await steps.step(first, ofMinima, changeFloats(dmin, superAt, 'F16', false))
  }
  return codedOf(type, { codes, d, dmin, scaleCodes, minCodes }, out, n)
}
