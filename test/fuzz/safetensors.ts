/** safetensors files, near the sound ones. */
import fc from 'fast-check'
import { gptqModel, model, safetensors } from '../../fixtures/hostile/bytes.ts'
import { byteEdits, jsonNear } from './json-tree.ts'

const number = fc.oneof(
  fc.nat(16).map(String),
  fc.constantFrom('-1', '-0', '4.0', '1e0', '00', '9007199254740991', '9007199254740992', '4294967296'),
  fc.constantFrom('18446744073709551616', '1e400', 'null', '"4"', '[]', 'NaN', ''),
)
const text = fc.oneof(
  fc.constantFrom('a', 'b', '__metadata__', '__proto__', 'dtype', 'shape', 'data_offsets'),
  fc.constantFrom('\\ud800', '\\u0061', '\\', '\u2028', '\\u001b', ''),
  fc.string({ unit: 'binary', maxLength: 4 }),
)
const dtype = fc.constantFrom('"F32"', '"U8"', '"F4"', '"F6_E2M3"', '"I4"', 'null', '1')
const list = fc.array(number, { maxLength: 4 }).map(items => `[${items}]`)
const field = fc.oneof(
  dtype.map(value => `"dtype":${value}`),
  list.map(value => `"shape":${value}`),
  list.map(value => `"data_offsets":${value}`),
  fc
    .tuple(text, fc.constantFrom('[[{"x":1.5e-3}]]', 'truth', '"\\ud800"', '[', '{}'))
    .map(([key, other]) => `"${key}":${other}`),
)
const object = fc.array(field, { maxLength: 5 }).map(fields => `{${fields.join(',')}}`)
const value = fc.oneof({ weight: 5, arbitrary: object }, { weight: 1, arbitrary: number })

interface Header {
  readonly json: string | Uint8Array
  /** Bytes of data that the header describes, or nearly. */
  readonly end: number
}

/** Tensors that tile their data, and then up to two entries of any kind: data as long as the tensors, mostly. */
const assembled: fc.Arbitrary<Header> = fc
  .tuple(fc.array(fc.nat(5), { maxLength: 4 }), fc.array(fc.tuple(text, value), { maxLength: 2 }))
  .map(([sizes, others]) => {
    let end = 0
    const entries = sizes.map((size, i) => {
      end += size
      return `"t${i}":{"dtype":"U8","shape":[${size}],"data_offsets":[${end - size},${end}]}`
    })
    return { json: `{${[...entries, ...others.map(([name, other]) => `"${name}":${other}`)]}}`, end }
  })

const small = {
  __metadata__: { format: 'pt' },
  'x.weight': { dtype: 'F32', shape: [2, 2], data_offsets: [0, 16] },
  y: { dtype: 'U8', shape: [3], data_offsets: [16, 19] },
  z: { dtype: 'F4', shape: [2, 1], data_offsets: [19, 20] },
}
const words = ['F16', 'BF16', 'F64', 'BOOL', 'F8_E8M0', '__metadata__', 'dtype', 'shape', 'data_offsets']
const mutated: fc.Arbitrary<Header> = jsonNear([small], words).map(json => ({ json, end: 20 }))

const claimed = fc.oneof(
  { weight: 8, arbitrary: fc.constant(undefined) },
  { weight: 1, arbitrary: fc.nat(300).map(BigInt) },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) },
)
const shift = fc.oneof(
  { weight: 5, arbitrary: fc.constant(0) },
  { weight: 1, arbitrary: fc.integer({ min: -2, max: 2 }) },
)

const described = fc
  .tuple(fc.oneof(assembled, mutated), shift, claimed, byteEdits)
  .map(([{ json, end }, extra, length, change]) => change(safetensors(json, Math.max(0, end + extra), length)))

const changed = fc.tuple(fc.constantFrom(model, gptqModel()), byteEdits).map(([file, change]) => change(file))

export const safetensorsFile: fc.Arbitrary<Uint8Array> = fc.oneof(
  { weight: 9, arbitrary: described },
  { weight: 1, arbitrary: changed },
)
