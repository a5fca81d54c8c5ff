/** GGUF files, near a sound one: its parts replaced by odd numbers, moved, doubled or dropped, then some bytes changed. */
import fc from 'fast-check'
import { families, vocabularyKeys } from '../../fixtures/gguf/vocabularies.ts'
import { QuantizeError } from '../../src/errors.ts'
import { configOf } from '../../src/gguf/model-config.ts'
import { openGguf } from '../../src/gguf/open-gguf.ts'
import { hfTokenizerOf } from '../../src/gguf/tokenizer/from-gguf.ts'
import { tokenizerMetadata } from '../../src/gguf/tokenizer/to-gguf.ts'
import { ggmlTypes } from '../../src/gguf/types.ts'
import { arrayOf, type GgufArray, type GgufMetadata, type GgufValue } from '../../src/gguf/values.ts'
import { planGguf } from '../../src/gguf/write-gguf.ts'
import { text, u32, u64 } from '../gguf/raw.ts'
import { byteEdits } from './json-tree.ts'
import { memoryFiles } from './memory-files.ts'
import type { Parser } from './parsers.ts'

const string = (value: string): Buffer[] => [u64(Buffer.byteLength(value)), Buffer.from(value)]
const f32 = (value: number): Buffer => Buffer.from(Float32Array.of(value).buffer)
const number = (key: string, value: number): Buffer[] => [...string(key), u32(4), u32(value)]
const float = (key: string, value: number): Buffer[] => [...string(key), u32(6), f32(value)]
const words = (key: string, value: string): Buffer[] => [...string(key), u32(8), ...string(value)]
const list = (key: string, type: number, items: readonly Buffer[]): Buffer[] => [
  ...string(key),
  u32(9),
  u32(type),
  u64(items.length),
  ...items,
]
const info = (name: string, dimensions: readonly number[], type: number, offset: number): Buffer[] => [
  ...string(name),
  u32(dimensions.length),
  ...dimensions.map(size => u64(size)),
  u32(type),
  u64(offset),
]

const tokens = ['<unk>', '<s>', '</s>', '▁', 'a', 'b', 'ab', '▁ab']

const keys = [
  words('general.architecture', 'llama'),
  number('general.alignment', 32),
  number('llama.context_length', 64),
  number('llama.embedding_length', 4),
  number('llama.block_count', 1),
  number('llama.feed_forward_length', 4),
  number('llama.attention.head_count', 2),
  float('llama.attention.layer_norm_rms_epsilon', 1e-5),
  words('tokenizer.ggml.model', 'llama'),
  list(
    'tokenizer.ggml.tokens',
    8,
    tokens.flatMap(token => text(token)),
  ),
  list(
    'tokenizer.ggml.scores',
    6,
    tokens.map((_, i) => f32(-i)),
  ),
  list('tokenizer.ggml.token_type', 5, [2, 3, 3, 1, 1, 1, 1, 1].map(u32)),
  list('tokenizer.ggml.merges', 8, [text('a b'), text('▁ ab')]),
  [...string('test.flag'), u32(7), Buffer.of(1)],
  [...string('test.wide'), u32(10), u64(2n ** 64n - 1n)],
]
const infos = [
  info('token_embd.weight', [4, 8], 0, 0),
  info('blk.0.attn_q.weight', [4, 4], 1, 128),
  info('blk.0.ffn_up.weight', [32, 2], 8, 160),
]
const parts: readonly Buffer[] = [
  Buffer.from('GGUF'),
  u32(3),
  u64(infos.length),
  u64(keys.length),
  ...keys.flat(),
  ...infos.flat(),
]
const dataBytes = 256

/** Numbers that are wrong in most places. */
const odd: fc.Arbitrary<Buffer> = fc.oneof(
  fc.nat(70).map(u32),
  fc.nat(300).map(u64),
  fc.constantFrom(2 ** 31, 2 ** 32 - 1, 0x03000000).map(u32),
  fc.constantFrom(2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n).map(u64),
  fc.constantFrom(Number.NaN, Number.POSITIVE_INFINITY, -1, 0).map(f32),
  fc
    .constantFrom('', 'llama', 'gpt2', 'none', 'split.count', '\u001b[2J', '__proto__', 'a')
    .map(word => Buffer.from(word)),
  fc.constantFrom('gpt2', 'qwen2', 'falcon', 'a', '▁', '').map(word => text(word)),
  fc.uint8Array({ maxLength: 9 }).map(bytes => Buffer.from(bytes)),
)

const kinds = ['replace', 'drop', 'double', 'copy', 'move', 'nudge'] as const

type Edit = (list: Buffer[]) => void

const nudged = (part: Buffer, by: number): Buffer => {
  const bytes = Buffer.from(part)
  if (bytes.length > 0) bytes[0] = (bytes[0] + by + 256) % 256
  return bytes
}

const edit: fc.Arbitrary<Edit> = fc
  .tuple(fc.constantFrom(...kinds), fc.nat(10_000), fc.nat(10_000), odd)
  .map(([kind, from, to, other]) => list => {
    const at = from % list.length
    const there = to % list.length
    if (kind === 'replace') list[at] = other
    else if (kind === 'drop') list[at] = Buffer.alloc(0)
    else if (kind === 'double') list.splice(at, 0, list[at])
    else if (kind === 'copy') list[there] = list[at]
    else if (kind === 'move') list.splice(there, 0, ...list.splice(at, 1))
    else list[at] = nudged(list[at], (to % 9) - 4)
  })

const shift = fc.oneof(
  { weight: 9, arbitrary: fc.constant(0) },
  { weight: 1, arbitrary: fc.integer({ min: -80, max: 80 }) },
)

const near: fc.Arbitrary<Uint8Array> = fc
  .tuple(fc.array(edit, { maxLength: 3 }), shift, byteEdits)
  .map(([edits, extra, change]) => {
    const list = [...parts]
    for (const apply of edits) apply(list)
    const header = Buffer.concat(list)
    const padding = (32 - (header.length % 32)) % 32
    return change(new Uint8Array(Buffer.concat([header, Buffer.alloc(padding + dataBytes + extra)])))
  })

/** The vocabularies of real tokenizers, with one array cut, one element changed, or one key of another kind. */
const valueChange: fc.Arbitrary<(value: GgufArray) => GgufValue> = fc
  .tuple(fc.nat(500), fc.constantFrom('', 'a', 'a b', '▁', 'x y z', '<0x00>', '\u2028'), fc.nat(2))
  .map(([at, word, kind]) => value => {
    const values = [...value.values()]
    if (kind === 0) return arrayOf(value.of, values.slice(0, at))
    const other = value.of === 'string' ? word : value.of === 'f32' ? Number.NaN : at
    values.splice(at % values.length, kind - 1, other)
    return arrayOf(value.of, values)
  })

const vocabularies = families.map(family => vocabularyKeys(family).metadata)

const vocabulary: fc.Arbitrary<Uint8Array> = fc
  .tuple(fc.constantFrom(...vocabularies), fc.nat(10), valueChange, byteEdits)
  .map(([metadata, which, change, edits]) => {
    const arrays = [...metadata].filter(([, value]) => value.type === 'array')
    const [key, value] = arrays[which % arrays.length]
    const changed: GgufMetadata = new Map([...metadata, [key, change(value as GgufArray)]])
    return edits(planGguf('m.gguf', changed, []).header)
  })

const expectThat = (holds: boolean, what: string): void => {
  if (!holds) throw new Error(`not true: ${what}`)
}

/** What of it is refused says nothing of the rest. */
const attempt = <T>(run: () => T): T | undefined => {
  try {
    return run()
  } catch (error) {
    if (!(error instanceof QuantizeError)) throw error
    expectThat(!/[\p{Cc}\p{Zl}\p{Zp}]/u.test(error.message), 'a refusal is one line')
    return undefined
  }
}

const parse = (bytes: Uint8Array): number => {
  const { files, largestRead, open } = memoryFiles({ 'm.gguf': bytes })
  try {
    const { metadata, tensors, close } = openGguf('m.gguf', files)
    let end = 0
    for (const { type, shape, bytes: size, offset, read } of tensors.values()) {
      const { block, bytes: blockBytes } = ggmlTypes[type]
      const weights = shape.reduce((product, length) => product * BigInt(length), 1n)
      expectThat(weights * BigInt(blockBytes) === BigInt(size) * BigInt(block), 'shape and bytes agree')
      expectThat(offset >= end && offset + size <= bytes.length, 'tensors lie in order inside the file')
      expectThat(Buffer.from(read()).equals(bytes.subarray(offset, offset + size)), 'data is what lies there')
      end = offset + size
    }
    for (const value of metadata.values()) if (value.type === 'array') attempt(() => value.values())
    attempt(() => configOf({ file: 'm.gguf', metadata, tensors }))
    const found = attempt(() => hfTokenizerOf(metadata, 'm.gguf'))
    // what we make of a GGUF can be read again, or is refused
    if (found) attempt(() => tokenizerMetadata({ json: found.tokenizer, file: 'm', tokenizer: found.config }, 500))
    close()
  } finally {
    expectThat(open() === 0, 'every file is closed')
  }
  return largestRead()
}

export const ggufParser: Parser = {
  name: 'gguf',
  file: fc.oneof({ weight: 4, arbitrary: near }, { weight: 1, arbitrary: vocabulary }),
  parse,
  quick: 6000,
}
