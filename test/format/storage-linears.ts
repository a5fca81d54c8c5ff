/** Linears of random codes as a format's storage wants them, and ways to damage what was stored. */
import { expect } from 'vitest'
import type {
  Bits,
  CodedLinear,
  Configs,
  Format,
  GridName,
  Group,
  LinearScheme,
  ScaleDtype,
  StoredTensor,
  TensorSource,
} from '../../src/contracts.ts'
import { fromFloat32, toFloat32 } from '../../src/dtype/convert.ts'
import type { WeightDtype } from '../../src/dtype/dtype.ts'
import { e4m3Values } from '../../src/dtype/small-floats.ts'
import { type ErrorCode, QuantizeError } from '../../src/errors.ts'
import { gridNamed } from '../../src/quantize/grid/index.ts'
import { sourceOf } from './linears.ts'

export interface SchemeSpec {
  readonly name?: string
  readonly role?: LinearScheme['role']
  readonly out: number
  readonly in: number
  readonly bits: Bits
  readonly group: Group
  readonly grid?: GridName
  readonly dtype?: WeightDtype
  readonly symmetric?: boolean
}

export const schemeWith = ({ name = 'm', role = 'linear', group, ...spec }: SchemeSpec): LinearScheme => ({
  grid: 'int',
  dtype: 'F16',
  symmetric: false,
  actOrder: 'none',
  ...spec,
  name,
  role,
  group,
  groups: typeof group === 'number' ? spec.in / group : 1,
})

/** Uniform in [0, 1), the same everywhere (a linear congruential generator of 32 bits; the high ones count). */
const generator = (seed: number) => {
  let state = (seed ^ 0x9e3779b9) >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 4294967296
  }
}

const e4m3 = e4m3Values()
const exact = (value: number, dtype: WeightDtype): number =>
  toFloat32(fromFloat32(Float32Array.of(value), dtype), dtype)[0]

const scaleOf = (random: () => number, dtype: ScaleDtype): number => {
  if (dtype === 'E8M0') return 2 ** Math.floor(random() * 20 - 10)
  if (dtype === 'E4M3') return e4m3[1 + Math.floor(random() * 126)]
  return exact(0.001 + random() * 0.1, dtype as WeightDtype)
}

const none = new Float32Array(0)

/** Any codes, scales, zero points and biases that the format's storage allows. */
export const linearFor = (format: Format, scheme: LinearScheme, seed: number): CodedLinear => {
  const random = generator(seed)
  const { out, in: inputs, groups, bits, grid: gridName, symmetric } = scheme
  const { decode, scaleDtype, zeroRange, biasDtype } = format.storage(scheme)
  const grid = gridNamed(gridName, bits, symmetric)
  const codeCount = grid.kind === 'levels' ? grid.codes.length : 2 ** bits
  const code = () => Math.floor(random() * codeCount)
  const [low, high] = zeroRange ?? [0, 0]
  const count = out * groups
  return {
    decode,
    out,
    in: inputs,
    bits,
    codes: Uint8Array.from({ length: out * inputs }, () => (grid.kind === 'levels' ? grid.codes[code()] : code())),
    scales: Float32Array.from({ length: count }, () => scaleOf(random, scaleDtype)),
    zeros:
      decode === 'affine'
        ? Float32Array.from({ length: count }, () => low + Math.floor(random() * (high - low + 1)))
        : none,
    biases: decode === 'biased' ? Float32Array.from({ length: count }, () => exact(random() - 0.5, biasDtype!)) : none,
    levels: grid.kind === 'levels' ? grid.levels : none,
    groupOf: Int32Array.from({ length: inputs }, (_, column) => Math.floor(column / (inputs / groups))),
  }
}

/** The config files that `assemble` writes for these linears, parsed. */
export const configsFor = (format: Format, linears: readonly LinearScheme[], source: object = {}): Configs => {
  const { grid, bits, symmetric, group, actOrder } = linears[0]
  const files = format.assemble(source as Record<string, unknown>, {
    ...{ linears, kept: [], rest: [], untied: false, method: 'rtn', damp: 0, clip: 'minmax', version: '1' },
    ...{ grid, bits, symmetric, group, actOrder },
  })
  return Object.fromEntries([...files].map(([name, content]) => [name, JSON.parse(String(content))]))
}

export const sourcesOf = (tensors: readonly StoredTensor[]): ReadonlyMap<string, TensorSource> =>
  new Map(tensors.map(tensor => [tensor.name, sourceOf(tensor)]))

/** The stored tensors with the one of that ending changed; undefined removes it. */
export const changedPart = (
  tensors: readonly StoredTensor[],
  suffix: string,
  change: Partial<StoredTensor> | undefined,
): StoredTensor[] => {
  expect(tensors.some(({ name }) => name.endsWith(suffix))).toBe(true)
  return tensors.flatMap(tensor => {
    if (!tensor.name.endsWith(suffix)) return [tensor]
    return change ? [{ ...tensor, ...change }] : []
  })
}

export const dataOf = (tensors: readonly StoredTensor[], suffix: string): Uint8Array =>
  tensors.find(({ name }) => name.endsWith(suffix))!.data

/** One line, with the code and the words that were expected. */
export const expectFailure = (run: () => unknown, code: ErrorCode, message: RegExp): void => {
  let thrown: unknown
  try {
    run()
  } catch (error) {
    thrown = error
  }
  expect(thrown).toBeInstanceOf(QuantizeError)
  const error = thrown as QuantizeError
  expect(error.message).toMatch(message)
  expect(error.message).not.toContain('\n')
  expect(error.code).toBe(code)
}

export const bytesOfShape = (tensors: readonly { readonly bytes: number }[]): number =>
  tensors.reduce((total, { bytes }) => total + bytes, 0)
