/** Linears of every grid, group and order, as a scheme says: for formats that hold them all. */
import fc from 'fast-check'
import type { Bits, CodedLinear, GridName, Group, LinearScheme } from '../../src/contracts.ts'
import { everyBits, everyGrid, ownScaleDtype, tableBits } from '../../src/format/grid-storage.ts'
import { levelGrids } from '../../src/quantize/grid/index.ts'
import { roundScale } from '../../src/quantize/storage.ts'
import { generator } from './linears.ts'

export interface AnyLinear {
  readonly scheme: LinearScheme
  readonly linear: CodedLinear
}

const none = new Float32Array(0)

const sizeOf = (group: Group, inputs: number): number =>
  typeof group === 'number' ? group : group === 'block' ? 128 : inputs

const rowsOf = (group: Group, out: number): number => (group === 'tensor' ? out : group === 'block' ? 128 : 1)

/** One value for all rows that share it. */
const parameters = (
  { out, groups, group }: LinearScheme,
  value: () => number,
  length = Math.ceil(out / rowsOf(group, out)) * groups,
): Float32Array => {
  const stored = Float32Array.from({ length }, value)
  return Float32Array.from({ length: out * groups }, (_, i) => {
    const row = Math.floor(Math.floor(i / groups) / rowsOf(group, out))
    return stored[row * groups + (i % groups)]
  })
}

const scalesOf = (scheme: LinearScheme, globalScale: number | undefined, random: () => number): Float32Array =>
  parameters(scheme, () => {
    const scale = roundScale(Math.fround(random() + 0.001), ownScaleDtype(scheme))
    return globalScale === undefined ? scale : Math.fround(scale / globalScale)
  })

/** A linear that obeys its scheme; zero points of asymmetric integers are real numbers when the seed is odd. */
export const linearOf = (scheme: LinearScheme, seed: number): CodedLinear => {
  const random = generator(seed)
  const { out, in: inputs, grid, bits, symmetric, group, actOrder } = scheme
  const table = grid === 'int' ? undefined : levelGrids[grid]
  const code = (): number =>
    table ? table.codes[Math.floor(random() * table.codes.length)] : Math.floor(random() * 2 ** bits)
  const zero = (): number => (symmetric ? 2 ** (bits - 1) : seed % 2 === 0 ? code() : random() * 10 - 5)
  const globalScale = grid === 'nvfp4' ? Math.fround(1 + 1000 * random()) : undefined
  const groupOf = Int32Array.from({ length: inputs }, (_, i) => Math.floor(i / sizeOf(group, inputs)))
  return {
    decode: table ? 'levels' : 'affine',
    out,
    in: inputs,
    bits,
    codes: Uint8Array.from({ length: out * inputs }, code),
    scales: scalesOf(scheme, globalScale, random),
    zeros: table ? none : parameters(scheme, zero),
    biases: none,
    levels: table ? table.levels : none,
    groupOf: actOrder === 'g_idx' ? groupOf.reverse() : groupOf,
    ...(globalScale === undefined ? {} : { globalScale }),
  }
}

const groups: fc.Arbitrary<Group> = fc.oneof(
  fc.integer({ min: 1, max: 40 }),
  fc.constantFrom<Group>('channel', 'tensor', 'block'),
)

export const anyScheme = (name: string): fc.Arbitrary<LinearScheme> =>
  fc
    .record({
      grid: fc.constantFrom<GridName>(...everyGrid),
      bits: fc.constantFrom<Bits>(...everyBits),
      out: fc.oneof(fc.integer({ min: 1, max: 9 }), fc.constant(130)),
      in: fc.oneof(fc.integer({ min: 1, max: 45 }), fc.constant(257)),
      symmetric: fc.boolean(),
      group: groups,
      dtype: fc.constantFrom('F32' as const, 'F16' as const, 'BF16' as const),
      role: fc.constantFrom('linear' as const, 'head' as const, 'embedding' as const),
      actOrder: fc.constantFrom('none' as const, 'static' as const, 'g_idx' as const),
    })
    .map(({ grid, bits, ...rest }) => ({
      name,
      ...rest,
      grid,
      bits: grid === 'int' ? bits : tableBits[grid],
      symmetric: grid === 'int' ? rest.symmetric : true,
      groups: Math.ceil(rest.in / sizeOf(rest.group, rest.in)),
    }))

export const anyLinear = (name: string): fc.Arbitrary<AnyLinear> =>
  fc
    .record({ scheme: anyScheme(name), seed: fc.nat() })
    .map(({ scheme, seed }) => ({ scheme, linear: linearOf(scheme, seed) }))
