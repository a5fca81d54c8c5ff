/** Every parser of a stranger's file, with the files that it is tried on. */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type fc from 'fast-check'
import { config, gptqConfig, gptqModel, model, safetensors, tokenizer } from '../../fixtures/hostile/bytes.ts'
import { JsonScanner } from '../../src/checkpoint/json-scanner.ts'
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.ts'
import { readJsonObject } from '../../src/checkpoint/read-json.ts'
import type { Checkpoint, TensorInfo } from '../../src/contracts.ts'
import { dequantize } from '../../src/dequantize.ts'
import { dtypeBits } from '../../src/dtype/dtype.ts'
import { QuantizeError } from '../../src/errors.ts'
import { detectFormat } from '../../src/format/index.ts'
import { inspectCheckpoint } from '../../src/inspect.ts'
import { buildModel } from '../../src/model/graph.ts'
import { buildReport } from '../../src/report/build.ts'
import { parseReport, reportJson } from '../../src/report/json.ts'
import type { Inputs } from '../../src/run/inputs.ts'
import { modelRun, reopen } from '../../src/run/journal.ts'
import { type Confined, confine } from '../../src/text/confined.ts'
import { loadTokenizer, tokenizerLimits, workerScript } from '../../src/text/tokenizer.ts'
import { reportFacts } from '../report/facts.ts'
import { formatsParser } from './formats.ts'
import { ggufParser } from './gguf.ts'
import { imatrixParser } from './imatrix.ts'
import { jsonNear } from './json-tree.ts'
import { memoryFiles } from './memory-files.ts'
import { safetensorsFile } from './safetensors.ts'
import { statisticsParser } from './statistics.ts'

export interface Parser {
  readonly name: string
  readonly file: fc.Arbitrary<Uint8Array>
  /** Parses; returns the largest buffer that was asked for to read into. A refusal is thrown. */
  readonly parse: (bytes: Uint8Array) => number | Promise<number>
  /** Executions in `npm test`. */
  readonly quick: number
  readonly close?: () => Promise<void>
}

/** Says that the parser itself is wrong, whatever it accepted. */
const expectThat = (holds: boolean, what: string): void => {
  if (!holds) throw new Error(`not true: ${what}`)
}

const fixture = (path: string): unknown =>
  JSON.parse(readFileSync(new URL(`../../fixtures/${path}`, import.meta.url), 'utf8'))

const dataStart = (file: Uint8Array): number => 8 + Number(Buffer.from(file).readBigUInt64LE())
const dataOf = (file: Uint8Array): Uint8Array => file.subarray(dataStart(file))
const headerOf = (file: Uint8Array): string => Buffer.from(file.subarray(8, dataStart(file))).toString()

/** Exact, as no number of the parser is. */
const bitsOf = ({ shape, dtype }: TensorInfo): bigint =>
  shape.reduce((product, size) => product * BigInt(size), BigInt(dtypeBits[dtype]))

const checkTensors = (checkpoint: Checkpoint, contents: Readonly<Record<string, Uint8Array>>): void => {
  const tensors = [...checkpoint.tensors.values()]
  for (const tensor of tensors) expectThat(bitsOf(tensor) === 8n * BigInt(tensor.bytes), 'shape and bytes agree')
  for (const name of checkpoint.files) {
    const read = tensors.filter(({ file }) => file === `m/${name}`).map(tensor => tensor.read())
    expectThat(Buffer.concat(read).equals(dataOf(contents[`m/${name}`])), 'tensors are the data, byte for byte')
  }
}

const parseCheckpoint = (contents: Readonly<Record<string, Uint8Array>>, path: string): number => {
  const { files, largestRead, open } = memoryFiles(contents)
  try {
    const checkpoint = openCheckpoint(path, files)
    try {
      checkTensors(checkpoint, contents)
      inspectCheckpoint(checkpoint, files)
    } finally {
      checkpoint.close()
    }
  } finally {
    expectThat(open() === 0, 'every file is closed')
  }
  return largestRead()
}

const safetensorsParser: Parser = {
  name: 'safetensors',
  file: safetensorsFile,
  parse: bytes => parseCheckpoint({ 'm/model.safetensors': bytes }, 'm/model.safetensors'),
  quick: 4000,
}

const shard = (...names: string[]): Uint8Array =>
  safetensors(
    JSON.stringify(
      Object.fromEntries(names.map((name, i) => [name, { dtype: 'U8', shape: [2], data_offsets: [2 * i, 2 * i + 2] }])),
    ),
    2 * names.length,
  )
const shards = { 'm/a.safetensors': shard('x', 'y', '__proto__'), 'm/b.safetensors': shard('z') }
const indexDocument = {
  metadata: { total_size: 8 },
  weight_map: JSON.parse('{"x":"a.safetensors","y":"a.safetensors","__proto__":"a.safetensors","z":"b.safetensors"}'),
}

const indexParser: Parser = {
  name: 'index',
  file: jsonNear([indexDocument], ['weight_map', 'x', 'z', 'a.safetensors', '../b.safetensors', 'c.safetensors']),
  parse: bytes => parseCheckpoint({ ...shards, 'm/model.safetensors.index.json': bytes }, 'm'),
  quick: 3000,
}

const tensorsOf = (weights: Uint8Array): Checkpoint['tensors'] =>
  openCheckpoint('m', memoryFiles({ 'm/model.safetensors': weights }).files).tensors
const plainTensors = tensorsOf(model)
const packedTensors = tensorsOf(gptqModel())
const variants = ['llama-rope-llama3', 'llama-rope-linear', 'mistral-window', 'opt', 'llama-biases-relu']
const configWords = [
  ...[
    'llama',
    'mistral',
    'opt',
    'gptq',
    'gptq_v2',
    'awq',
    'silu',
    'relu',
    'gelu',
    'linear',
    'llama3',
    'yarn',
    'default',
  ],
  ...[
    'model_type',
    'hidden_size',
    'head_dim',
    'num_key_value_heads',
    'rope_scaling',
    'rope_parameters',
    'rope_theta',
    'factor',
  ],
  ...['quantization_config', 'quant_method', 'bits', 'group_size', 'dynamic', 'checkpoint_format', 'sym', 'desc_act'],
  ...['sliding_window', 'layer_types', 'tie_word_embeddings', 'num_hidden_layers', 'rms_norm_eps', 'architectures'],
]

const configParser: Parser = {
  name: 'config',
  file: jsonNear(
    [
      config,
      config,
      JSON.parse(gptqConfig()),
      JSON.parse(gptqConfig()),
      ...variants.map(name => fixture(`transformers/${name}/config.json`)),
    ],
    configWords,
  ),
  parse(bytes) {
    const { files, largestRead } = memoryFiles({ 'm/config.json': bytes })
    const read = readJsonObject('m/config.json', files)
    for (const tensors of [packedTensors, plainTensors]) {
      const detected = detectFormat(tensors, { 'config.json': read }, 'm')
      const built = buildModel(read, tensors, 'm/config.json', detected?.linears)
      expectThat(built.blocks.length > 0 && built.vocabulary > 0, 'a model has blocks and a vocabulary')
    }
    return largestRead()
  },
  quick: 4000,
}

const packedHeader: unknown = JSON.parse(headerOf(gptqModel()))
const packedData = dataOf(gptqModel())

const gptqParser: Parser = {
  name: 'gptq',
  file: jsonNear([packedHeader], ['I32', 'F32', 'BF16', 'U8', 'shape', 'dtype']).map(json =>
    safetensors(json, packedData),
  ),
  parse(bytes) {
    const { files, largestRead } = memoryFiles({ 'm/model.safetensors': bytes })
    const { tensors } = openCheckpoint('m', files)
    const read = JSON.parse(gptqConfig())
    const detected = detectFormat(tensors, { 'config.json': read }, 'm')!
    for (const name of detected.linears.keys()) {
      const linear = detected.format.unpack(name, part => tensors.get(part), { 'config.json': read })
      expectThat(dequantize(linear).every(Number.isFinite), 'weights are finite')
    }
    return largestRead()
  },
  quick: 1000,
}

gptqParser.parse(gptqModel()) // makes the table of float16 values, once a process: no file's doing

const families = ['gpt2', 'llama2', 'llama3', 'metaspace']

/** The tokenizer without most of its vocabulary, so that mutations meet the rest. */
const shortened = (family: string): unknown => {
  const whole = fixture(`tokenizer/${family}/tokenizer.json`) as {
    model: { vocab: Record<string, number>; merges: unknown[] }
  }
  const vocab = Object.fromEntries(Object.entries(whole.model.vocab).slice(0, 300))
  const made = whole.model.merges.filter(merge => Object.hasOwn(vocab, String(merge).replace(/[ ,]/, '')))
  return { ...whole, model: { ...whole.model, vocab, merges: made.slice(0, 20) } }
}

const tokenizerWords = [
  ...[
    'BPE',
    'Unigram',
    'WordPiece',
    'WordLevel',
    'Sequence',
    'Split',
    'ByteLevel',
    'Metaspace',
    'Digits',
    'Precompiled',
  ],
  ...[
    'Replace',
    'Prepend',
    'Strip',
    'NFKC',
    'Lowercase',
    'BertNormalizer',
    'BertPreTokenizer',
    'Punctuation',
    'Whitespace',
  ],
  ...[
    'TemplateProcessing',
    'Isolated',
    'Removed',
    'MergedWithPrevious',
    'type',
    'pattern',
    'Regex',
    'String',
    'vocab',
    'merges',
  ],
  ...[
    'unk_token',
    'added_tokens',
    'content',
    'precompiled_charsmap',
    'normalizers',
    'pretokenizers',
    '▁',
    ' ',
    '(a|a)*b',
    '(?i:x)',
  ],
]
const sample = 'ab ba a b  1847,\n\n東京 <|end|> aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!'
const fuzzLimits = { ...tokenizerLimits, baseMs: 500 }

/** One worker for many files, and a new one after it had to be ended. */
const sharedWorker = () => {
  let worker: Confined | undefined
  let starting = true
  const open = (): Confined => {
    starting = worker === undefined
    worker ??= confine(workerScript, 512 * 2 ** 20)
    const { ask } = worker
    return {
      async ask(request, limitMs) {
        try {
          return await ask(request, starting ? limitMs + 10_000 : limitMs)
        } catch (error) {
          worker = undefined
          throw error
        } finally {
          starting = false
        }
      },
      close: async () => {},
    }
  }
  return { open, close: async () => worker?.close() }
}

const shared = sharedWorker()

const tokenizerParser: Parser = {
  name: 'tokenizer',
  file: jsonNear([tokenizer, ...families.map(shortened)], tokenizerWords),
  async parse(bytes) {
    const { files, largestRead } = memoryFiles({ 'm/tokenizer.json': bytes })
    const loaded = await loadTokenizer({ folder: 'm' }, files, fuzzLimits, shared.open)
    const ids = await loaded.encodeLong(sample)
    expectThat(
      ids.every(id => id >= 0 && id < loaded.vocabularySize),
      'ids lie in the vocabulary',
    )
    return largestRead()
  },
  quick: 2000,
  close: shared.close,
}

const reportDocument: unknown = JSON.parse(reportJson(buildReport(reportFacts)))

const reportParser: Parser = {
  name: 'report',
  file: jsonNear(
    [reportDocument],
    ['schema', 'linears', 'outputs', 'gptq', 'rtn', 'channel', 'name', 'recipe', 'kept'],
  ),
  parse(bytes) {
    const text = new TextDecoder('utf-8', { fatal: false }).decode(bytes)
    reportJson(parseReport(text, 'm/quantize-report.json'))
    return 0
  },
  quick: 2000,
}

const sha256 = 'c'.repeat(64)
const inputs: Inputs = {
  version: '1.2.3',
  device: null,
  recipe: { method: 'rtn', bits: 4 },
  text: null,
  imatrix: null,
  stats: null,
  model: { 'model.safetensors': { bytes: 5, sha256, stamp: '1 2 3' } },
}
const error = { weights: 8, mse: 0.1, sqnrDb: null, maxAbsError: 0.2, energy: 3, errorEnergy: 0.8 }
const counts = { clippedFraction: 0, deadChannels: null, zeroedWeights: 0, zeroedActivations: 0, seconds: 0.1 }
const facts = { method: 'rtn', fallback: null, error, relativeOutputError: null, damp: null, ...counts }
const head = { journal: 1, inputs }
const recordLine = (json: string): string => `${createHash('sha256').update(json).digest('hex').slice(0, 16)} ${json}\n`

const journalParser: Parser = {
  name: 'journal',
  file: jsonNear(
    [head, { name: 'a', tensors: { 'a.qweight': sha256 }, facts }, { name: 'b', tensors: { b: sha256 }, facts: null }],
    ['journal', 'inputs', 'recipe', 'model', 'sha256', 'facts', 'tensors', 'error', 'rtn', 'gptq'],
  ),
  /** With a checksum that holds, since without one it is not read; as the first record and as the second. */
  parse(bytes) {
    const line = recordLine(new TextDecoder('utf-8', { fatal: false }).decode(bytes))
    let largest = 0
    const refusals: QuantizeError[] = []
    const before = [recordLine(JSON.stringify(head)), '']
    for (const first of before) {
      const { files, largestRead } = memoryFiles({ 'm/journal': Buffer.from(`${first}${line}0123456789abcdef {`) })
      try {
        const earlier = reopen(modelRun, 'm', inputs, files)?.earlier ?? []
        expectThat(
          earlier.every(({ name }) => typeof name === 'string'),
          'records have names',
        )
      } catch (error) {
        if (!(error instanceof QuantizeError)) throw error
        // of other inputs: the code says that another command is meant
        refusals.push(error.code === 'bad-option' ? new QuantizeError('bad-input', error.message) : error)
      }
      largest = Math.max(largest, largestRead())
    }
    if (refusals.length === before.length) throw refusals[0]
    return largest
  },
  quick: 2000,
}

/** Any value, as JSON.parse gives it, or what is wrong with it. */
const byOracle = (text: string): { readonly value: unknown } | undefined => {
  try {
    return { value: JSON.parse(text) }
  } catch {
    return undefined
  }
}

const scan = (bytes: Uint8Array, read: (scanner: JsonScanner) => void): boolean => {
  const scanner = new JsonScanner(bytes, problem => {
    throw new QuantizeError('bad-input', problem)
  })
  try {
    read(scanner)
    scanner.end()
    return true
  } catch (error) {
    if (!(error instanceof QuantizeError)) throw error
    return false
  }
}

const jsonDocuments = [
  [0, -1.5e3, 'a\u0007"\\/b', '\u{1f600}', true, false, null, {}, []],
  { a: { b: [{ c: 'd' }], e: [1, 2, [3]] }, '': '', ' ': [[[[]]]] },
  'text',
]

const scannerParser: Parser = {
  name: 'json',
  file: jsonNear(jsonDocuments, ['a', 'b', 'e']),
  parse(bytes) {
    const accepted = scan(bytes, scanner => scanner.skip())
    const distinct = scan(bytes, scanner => scanner.skipDistinct())
    const text = new TextDecoder('utf-8', { fatal: false, ignoreBOM: true }).decode(bytes)
    const oracle = byOracle(text)
    expectThat(!accepted || oracle !== undefined, 'JSON.parse takes what the scanner takes')
    expectThat(!distinct || accepted, 'skipDistinct takes no more than skip')
    if (distinct && oracle !== undefined)
      expectThat(
        scan(Buffer.from(JSON.stringify(oracle.value)), scanner => scanner.skipDistinct()),
        'it takes it again',
      )
    if (typeof oracle?.value === 'string' && accepted)
      scan(bytes, scanner =>
        expectThat(scanner.string(1e6) === oracle.value, 'a string is what JSON.parse makes of it'),
      )
    if (!accepted) throw new QuantizeError('bad-input', 'refused')
    return 0
  },
  quick: 4000,
}

export const parsers: readonly Parser[] = [
  safetensorsParser,
  indexParser,
  configParser,
  gptqParser,
  formatsParser,
  ggufParser,
  imatrixParser,
  statisticsParser,
  tokenizerParser,
  reportParser,
  journalParser,
  scannerParser,
]
