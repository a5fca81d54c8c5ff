import fs from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.ts'
import { QuantizeError } from '../../src/errors.ts'
import { nodeFiles } from '../../src/io/files.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'
import { fileBytes, openDescriptors } from './support.ts'

const folder = temporaryFolder()
const path = join(folder, 'fuzz.safetensors')

/** Opens the bytes as a file; reads every tensor when it is accepted. Only a QuantizeError may come out. */
const outcome = (bytes: Uint8Array): 'accepted' | 'refused' => {
  fs.writeFileSync(path, bytes)
  try {
    const checkpoint = openCheckpoint(path, nodeFiles)
    for (const tensor of checkpoint.tensors.values()) expect(tensor.read().length).toBe(tensor.bytes)
    checkpoint.close()
    return 'accepted'
  } catch (error) {
    expect(error).toBeInstanceOf(QuantizeError)
    expect((error as QuantizeError).message).not.toMatch(/[\p{Cc}\p{Zl}\p{Zp}]/u)
    return 'refused'
  }
}

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

/** Tensors that tile their data, and then up to two entries of any kind: data as long as the tensors, mostly. */
const header = fc
  .tuple(fc.array(fc.nat(5), { maxLength: 4 }), fc.array(fc.tuple(text, value), { maxLength: 2 }))
  .map(([sizes, others]) => {
    let end = 0
    const entries = sizes.map((size, i) => {
      end += size
      return `"t${i}":{"dtype":"U8","shape":[${size}],"data_offsets":[${end - size},${end}]}`
    })
    return { json: `{${[...entries, ...others.map(([name, other]) => `"${name}":${other}`)]}}`, end }
  })
const shift = fc.oneof(
  { weight: 5, arbitrary: fc.constant(0) },
  { weight: 1, arbitrary: fc.integer({ min: -2, max: 2 }) },
)

it('a header of likely and unlikely parts is accepted or refused, never more', () => {
  const before = openDescriptors()
  const seen = { accepted: 0, refused: 0 }
  const claimed = fc.oneof(
    { weight: 8, arbitrary: fc.constant(undefined) },
    { weight: 1, arbitrary: fc.nat(300).map(BigInt) },
    { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) },
  )
  fc.assert(
    fc.property(header, shift, claimed, ({ json, end }, extra, length) => {
      seen[outcome(fileBytes(json, Math.max(0, end + extra), length))]++
    }),
    { numRuns: 2000 },
  )
  expect(seen.accepted).toBeGreaterThan(100)
  expect(seen.refused).toBeGreaterThan(500)
  expect(openDescriptors()).toBe(before)
})

const valid = fileBytes(
  '{"__metadata__":{"format":"pt"},"x.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"y":{"dtype":"U8","shape":[3],"data_offsets":[16,19]}}',
  19,
)

it('a valid file with bytes changed, dropped, doubled or cut is accepted or refused, never more', () => {
  const at = fc.nat(valid.length - 1)
  const edit = fc.oneof(
    fc.tuple(at, fc.nat(255)).map(
      ([i, byte]) =>
        (file: Uint8Array) =>
          file.with(i % file.length, byte),
    ),
    fc.tuple(at, fc.nat(7)).map(
      ([i, bit]) =>
        (file: Uint8Array) =>
          file.with(i % file.length, file[i % file.length] ^ (1 << bit)),
    ),
    at.map(i => (file: Uint8Array) => (i > 0 ? file.slice(0, i) : file)),
    fc.tuple(at, fc.nat(20)).map(
      ([i, n]) =>
        (file: Uint8Array) =>
          new Uint8Array(Buffer.concat([file.slice(0, i + n), file.slice(i)])),
    ),
    fc.tuple(at, fc.nat(20)).map(
      ([i, n]) =>
        (file: Uint8Array) =>
          new Uint8Array(Buffer.concat([file.slice(0, i + 1), file.slice(i + n + 1)])),
    ),
  )
  expect(outcome(valid)).toBe('accepted')
  fc.assert(
    fc.property(fc.array(edit, { minLength: 1, maxLength: 3 }), edits => {
      outcome(edits.reduce((file, apply) => apply(file), valid))
    }),
    { numRuns: 2000 },
  )
})
