/** Linears and checkpoints made of random codes, for the format tests. */
import fc from 'fast-check'
import type {
  ActOrder,
  Bits,
  CodedLinear,
  LinearScheme,
  QuantizedLinear,
  StoredTensor,
  TensorInfo,
  TensorLookup,
  TensorSource,
} from '../../src/contracts.ts'
import { fromFloat32, toFloat32 } from '../../src/dtype/convert.ts'
import { decodedBlocks } from '../../src/gguf/coded.ts'

export interface LinearSpec {
  readonly out: number
  readonly in: number
  readonly bits: Bits
  readonly groups: number
  readonly order: ActOrder
  /** Lowest zero point. */
  readonly lowest: number
  readonly seed: number
}

/** Uniform in [0, 1), the same everywhere (mulberry32). */
export const generator = (seed: number) => {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

const shuffle = (values: Int32Array, random: () => number): void => {
  for (let i = values.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1))
    const value = values[i]
    values[i] = values[j]
    values[j] = value
  }
}

export const randomLinear = ({ out, in: inputs, bits, groups, order, lowest, seed }: LinearSpec): CodedLinear => {
  const random = generator(seed)
  const maxCode = 2 ** bits - 1
  const groupOf = Int32Array.from({ length: inputs }, (_, i) => Math.floor(i / (inputs / groups)))
  if (order === 'g_idx') shuffle(groupOf, random)
  const scales = Float32Array.from({ length: out * groups }, () => {
    const scale = (random() - 0.3) * 0.1
    return Math.abs(scale) < 2 ** -14 ? 2 ** -14 : scale // a scale of 0 has no zero point: repack.test
  })
  return {
    decode: 'affine',
    out,
    in: inputs,
    bits,
    codes: Uint8Array.from({ length: out * inputs }, () => Math.floor(random() * (maxCode + 1))),
    zeros: Float32Array.from({ length: out * groups }, () => lowest + Math.floor(random() * (maxCode + 1 - lowest))),
    scales: toFloat32(fromFloat32(scales, 'F16'), 'F16'),
    biases: new Float32Array(0),
    levels: new Float32Array(0),
    groupOf,
  }
}

/** Bits, shapes of an odd number of words, groups, orders: all that a format must hold. */
export const linearSpecs = (lowest: number): fc.Arbitrary<LinearSpec> =>
  fc
    .record({
      bits: fc.constantFrom<Bits>(2, 3, 4, 8),
      outUnits: fc.integer({ min: 1, max: 7 }),
      inUnits: fc.integer({ min: 1, max: 7 }),
      groupChoice: fc.nat(),
      order: fc.constantFrom<ActOrder>('none', 'g_idx'),
      seed: fc.integer(),
    })
    .map(({ bits, outUnits, inUnits, groupChoice, order, seed }) => {
      const unit = bits === 3 ? 32 : 32 / bits
      const inputs = inUnits * unit
      const divisors = Array.from({ length: inputs }, (_, i) => i + 1).filter(size => inputs % size === 0)
      const groups = divisors[groupChoice % divisors.length]
      return { bits, out: outUnits * unit, in: inputs, groups, order, lowest, seed }
    })

export const schemeOf = (name: string, spec: Omit<LinearSpec, 'lowest' | 'seed'>, symmetric = false): LinearScheme => ({
  name,
  role: 'linear',
  dtype: 'F16',
  grid: 'int',
  out: spec.out,
  in: spec.in,
  bits: spec.bits,
  symmetric,
  group: spec.groups === 1 ? 'channel' : spec.in / spec.groups,
  groups: spec.groups,
  actOrder: spec.order,
})

/** The scheme of a linear of integers, for pack. */
export const schemeFor = (name: string, { out, in: inputs, bits, scales }: CodedLinear): LinearScheme =>
  schemeOf(name, { out, in: inputs, bits, groups: scales.length / out, order: 'none' })

/** A linear that is stored as codes. */
export const codedOf = (linear: QuantizedLinear): CodedLinear => {
  if (linear.decode === 'dense') throw new Error('a dense linear')
  return linear.decode === 'blocks' ? decodedBlocks(linear) : linear
}

export const sourceOf = (tensor: StoredTensor): TensorSource => ({
  ...tensor,
  file: 'model.safetensors',
  read: (start = 0, end = tensor.data.byteLength) => tensor.data.slice(start, end),
})

export const lookupIn = (tensors: readonly StoredTensor[]): TensorLookup => {
  const byName = new Map(tensors.map(tensor => [tensor.name, sourceOf(tensor)]))
  return name => byName.get(name)
}

/** Tensors of which no byte may be read. */
export const infoMap = (tensors: readonly TensorInfo[]): ReadonlyMap<string, TensorSource> =>
  new Map(
    tensors.map(({ name, dtype, shape, bytes }) => {
      const read = (): never => {
        throw new Error(`reads ${name}`)
      }
      return [name, { name, dtype, shape, bytes, file: 'model.safetensors', read }]
    }),
  )

/** Words of little-endian bytes, as unsigned hexadecimal. */
export const hexWords = (data: Uint8Array): string[] =>
  [...new Uint32Array(data.slice().buffer)].map(word => word.toString(16).toUpperCase().padStart(8, '0'))
