/** What every format promises, over all that it can hold: new formats are tested by being in the index. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type {
  AssembleFacts,
  CodedLinear,
  Configs,
  Format,
  Group,
  LinearScheme,
  StoredTensor,
} from '../../src/contracts.ts'
import { dequantize } from '../../src/dequantize.ts'
import { QuantizeError } from '../../src/errors.ts'
import { formats } from '../../src/format/index.ts'
import { gridPresets } from '../../src/method/grids.ts'
import { clips } from '../../src/quantize/clip/index.ts'
import { gridNamed } from '../../src/quantize/grid/index.ts'
import { quantizeReference } from '../../src/quantize/reference.ts'
import { randomWeights } from '../helpers/linears.ts'
import { codedOf, lookupIn, sourceOf } from './linears.ts'

const module = 'model.layers.0.mlp.up_proj'

interface Case extends Pick<LinearScheme, 'out' | 'in' | 'grid' | 'bits' | 'symmetric' | 'group' | 'dtype'> {
  readonly seed: number
}

/** Everything that the format says it can hold, on shapes from small to odd. */
const casesOf = ({ facts }: Format): fc.Arbitrary<Case> =>
  fc
    .record({
      out: fc.constantFrom(8, 16, 24, 32, 40, 64, 136, 160),
      in: fc.constantFrom(16, 32, 48, 64, 96, 128, 160, 192, 256),
      grid: fc.constantFrom(...facts.grids),
      bits: fc.constantFrom(...facts.bits),
      symmetric: fc.boolean(),
      group: fc.constantFrom<Group>(8, 16, 32, 64, 128, 'channel', 'tensor', 'block'),
      dtype: fc.constantFrom<LinearScheme['dtype']>('BF16', 'F16', 'F32'),
      seed: fc.integer({ min: 1, max: 1e6 }),
    })
    .map(({ bits, symmetric, ...rest }) => ({
      ...rest,
      bits: gridPresets[rest.grid].bits ?? bits,
      symmetric: rest.grid === 'int' ? symmetric : true,
      group: facts.impliedGroup?.(rest.in, gridPresets[rest.grid].bits ?? bits, rest.grid) ?? rest.group,
    }))

const schemeOf = ({ seed, ...rest }: Case): LinearScheme => ({
  name: module,
  role: 'linear',
  ...rest,
  groups: Math.ceil(rest.in / (typeof rest.group === 'number' ? rest.group : rest.group === 'block' ? 128 : rest.in)),
  actOrder: 'none',
})

/** A rounded linear in the format's own storage. */
const linearOf = (format: Format, scheme: LinearScheme, seed: number): CodedLinear => {
  const { out, in: inputs, grid, bits, symmetric, group } = scheme
  const W = randomWeights(out, inputs, seed)
  W[seed % W.length] *= 20 // an outlier
  const rule = { grid: gridNamed(grid, bits, symmetric), clip: clips.minmax, storage: format.storage(scheme) }
  return quantizeReference(W, out, inputs, { ...rule, group }).quantized
}

const factsOf = (scheme: LinearScheme): AssembleFacts => ({
  linears: [scheme],
  kept: [],
  rest: [],
  untied: false,
  method: 'rtn',
  ...{ grid: scheme.grid, bits: scheme.bits, symmetric: scheme.symmetric, group: scheme.group },
  actOrder: 'none',
  damp: 0,
  clip: 'minmax',
  version: '0.0.0',
})

const configsOf = (format: Format, scheme: LinearScheme): Configs => {
  const shape = { hidden_size: scheme.in, intermediate_size: scheme.out } // quanto stores none: it is the model's
  const files = format.assemble({ model_type: 'llama', dtype: 'bfloat16', ...shape }, factsOf(scheme))
  return Object.fromEntries(
    [...files].flatMap(([name, content]) => (typeof content === 'string' ? [[name, JSON.parse(content)]] : [])),
  )
}

/** Runs a check on cases that the format does not refuse; there must be some. */
const hold = (
  format: Format,
  check: (scheme: LinearScheme, linear: CodedLinear, stored: readonly StoredTensor[]) => void,
): void => {
  let held = 0
  fc.assert(
    fc.property(casesOf(format), one => {
      const scheme = schemeOf(one)
      if ((typeof one.group === 'number' && one.in % one.group !== 0) || format.refuses(scheme) !== undefined) return
      if (scheme.group === 'block' && !scheme.symmetric) return
      held++
      const linear = linearOf(format, scheme, one.seed)
      check(scheme, linear, format.pack(scheme, linear))
    }),
    { numRuns: 120 },
  )
  expect(held).toBeGreaterThan(4)
}

const tensorsOf = (stored: readonly StoredTensor[]) => new Map(stored.map(tensor => [tensor.name, sourceOf(tensor)]))
/** −0 and 0 alike. */
const plain = (values: Float32Array): number[] => [...values].map(value => value + 0)

/** Formats whose tensors are read as a graph's, or that are not read back. */
const coded = Object.entries(formats).filter(
  ([, { facts }]) => facts.dense !== true && (facts.container ?? 'safetensors') === 'safetensors',
)

describe.each(coded)('%s', (_, format: Format) => {
  it('gives back what was packed: the same codes and the same values, bit for bit', () =>
    hold(format, (scheme, linear, stored) => {
      const back = format.unpack(module, lookupIn(stored), configsOf(format, scheme))
      expect(codedOf(back).codes).toEqual(linear.codes)
      expect(plain(dequantize(back))).toEqual(plain(dequantize(linear)))
    }))

  it('stores what its layout promises', () =>
    hold(format, (scheme, _, stored) => {
      expect(stored.map(({ data, ...info }) => info)).toEqual(format.layout(scheme))
      for (const { data, bytes } of stored) expect(data.byteLength).toBe(bytes)
      expect(new Set(stored.map(({ name }) => name)).size).toBe(stored.length)
      expect(stored.every(({ name }) => name.startsWith(`${module}.`))).toBe(true)
    }))

  it('finds its own linears again, with their scheme', () =>
    hold(format, (scheme, _, stored) => {
      const found = format.detect(tensorsOf(stored), configsOf(format, scheme))?.get(module)
      expect(found).toMatchObject({
        name: module,
        out: scheme.out,
        in: scheme.in,
        grid: scheme.grid,
        bits: scheme.bits,
      })
      // one group a row is one group a row, whatever it is called
      if (scheme.groups > 1) expect(found!.group).toBe(scheme.group)
    }))

  it('is found by no other format', () =>
    hold(format, (scheme, _, stored) => {
      const configs = configsOf(format, scheme)
      const finders = coded.filter(([, other]) => other.detect(tensorsOf(stored), configs) !== undefined)
      expect(finders.map(([name]) => name)).toEqual([format.name])
    }))

  it('says in one line what is wrong with a damaged checkpoint', () =>
    hold(format, (scheme, _, stored) => {
      const configs = configsOf(format, scheme)
      const damages: ((tensor: StoredTensor) => StoredTensor | undefined)[] = [
        () => undefined,
        tensor => ({ ...tensor, data: tensor.data.subarray(0, tensor.data.length >> 1) }),
        tensor => ({ ...tensor, shape: [...tensor.shape, 2] }),
        tensor => ({ ...tensor, shape: tensor.shape.map(size => size * 2 + 1) }),
        tensor => ({ ...tensor, dtype: 'BOOL' }),
      ]
      for (const [at, tensor] of stored.entries())
        for (const damage of damages) {
          const broken = damage(tensor)
          const tensors = stored.flatMap((other, i) => (i !== at ? [other] : broken ? [broken] : []))
          const run = () => {
            format.detect(tensorsOf(tensors), configs)
            return dequantize(format.unpack(module, lookupIn(tensors), configs))
          }
          try {
            run()
          } catch (error) {
            expect(error, `${tensor.name}: ${String(error)}`).toBeInstanceOf(QuantizeError)
            expect((error as Error).message).not.toMatch(/\p{Cc}/u)
          }
        }
    }))

  it('refuses in one sentence what it does not hold', () => {
    const base: Case = { out: 64, in: 128, grid: 'int', bits: 4, symmetric: true, group: 32, dtype: 'BF16', seed: 1 }
    const others: readonly Partial<Case>[] = [
      { bits: 1 },
      { grid: 'fp4' },
      { grid: 'nf4', group: 16 },
      { group: 'block', bits: 4 },
      { group: 2 },
    ]
    const said = others
      .map(change => format.refuses(schemeOf({ ...base, ...change })))
      .filter(text => text !== undefined)
    if (format.name !== 'codebook') expect(said.length).toBeGreaterThan(0)
    for (const text of said) expect(text).toMatch(/^[^\n.]+(\.\d[^\n.]*)*$/)
  })
})
