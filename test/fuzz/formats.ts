/** Small checkpoints of every format, whose header and configs are changed together. */

import { safetensors } from '../../fixtures/hostile/bytes.ts'
import { modelConfigs } from '../../src/checkpoint/beside.ts'
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.ts'
import { planFile } from '../../src/checkpoint/shard-plan.ts'
import type { AssembleFacts, Format, GridName, LinearScheme } from '../../src/contracts.ts'
import { dequantize } from '../../src/dequantize.ts'
import { QuantizeError } from '../../src/errors.ts'
import { configFiles, detectFormat, formats } from '../../src/format/index.ts'
import { gridPresets } from '../../src/method/grids.ts'
import { clips } from '../../src/quantize/clip/index.ts'
import { gridNamed } from '../../src/quantize/grid/index.ts'
import { quantizeReference } from '../../src/quantize/reference.ts'
import { randomWeights } from '../helpers/linears.ts'
import { jsonNear } from './json-tree.ts'
import { memoryFiles } from './memory-files.ts'
import type { Parser } from './parsers.ts'

const module = 'model.layers.0.mlp.up_proj'
const [out, inputs] = [32, 128]

/** What a file of this fuzzer holds. */
interface Document {
  readonly format: string
  readonly header: unknown
  readonly configs: Readonly<Record<string, unknown>>
}

const schemeOf = ({ facts }: Format, grid: GridName): LinearScheme | undefined => {
  const bits = gridPresets[grid].bits ?? (facts.bits.includes(4) ? 4 : facts.bits[0])
  const group = facts.impliedGroup?.(inputs, bits, grid) ?? gridPresets[grid].group ?? (bits === 8 ? 'channel' : 32)
  const groups = typeof group === 'number' ? inputs / group : 1
  const base = { name: module, role: 'linear', out, in: inputs, dtype: 'BF16', actOrder: 'none' } as const
  return { ...base, grid, bits, symmetric: true, group, groups }
}

/** Header, data and configs of one linear in a format and grid. */
const sample = (format: Format, grid: GridName) => {
  const scheme = schemeOf(format, grid)
  if (!scheme || format.refuses(scheme)) return undefined
  const rule = { grid: gridNamed(grid, scheme.bits, true), clip: clips.minmax, storage: format.storage(scheme) }
  const { quantized } = quantizeReference(randomWeights(out, inputs, 3), out, inputs, { ...rule, group: scheme.group })
  const stored = new Map(format.pack(scheme, quantized).map(tensor => [tensor.name, tensor]))
  const plan = planFile('model.safetensors', [...stored.values()])
  const data = Buffer.concat(plan.tensors.map(({ name }) => stored.get(name)!.data))
  const header = JSON.parse(Buffer.from(plan.header.subarray(8)).toString())
  const facts: AssembleFacts = {
    linears: [scheme],
    kept: [],
    rest: [],
    untied: false,
    method: 'rtn',
    ...{ grid, bits: scheme.bits, symmetric: true, group: scheme.group, actOrder: 'none', damp: 0 },
    ...{ clip: 'minmax', version: '0.0.0' },
  }
  const files = format.assemble({ model_type: 'llama', hidden_size: inputs, intermediate_size: out }, facts)
  const configs = Object.fromEntries(
    [...files].map(([name, content]) => [name, JSON.parse(content as string)] as const),
  )
  return { document: { format: `${format.name} ${grid}`, header, configs } satisfies Document, data }
}

const samples = Object.values(formats)
  .filter(({ facts }) => !facts.dense && (facts.container ?? 'safetensors') === 'safetensors')
  .flatMap(format => format.facts.grids.flatMap(grid => sample(format, grid) ?? []))
const dataOf = new Map(samples.map(({ document, data }) => [document.format, data]))

const words = [
  'bits',
  'group_size',
  'quant_method',
  'config_groups',
  'targets',
  'U8',
  'I32',
  'F32',
  'BF16',
  'I8',
  'F8_E4M3',
]

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** The files that a document stands for. @throws QuantizeError where it is none, or too deep to be written */
const contentsOf = (bytes: Uint8Array): Readonly<Record<string, Uint8Array>> => {
  try {
    const { format, header, configs } = JSON.parse(Buffer.from(bytes).toString())
    const data = dataOf.get(String(format)) ?? samples[0].data
    const named = configFiles.filter(name => isRecord(configs) && Object.hasOwn(configs, name))
    return {
      'm/model.safetensors': safetensors(JSON.stringify(header ?? {}), data),
      ...Object.fromEntries(named.map(name => [`m/${name}`, Buffer.from(JSON.stringify(configs[name]))])),
    }
  } catch {
    throw new QuantizeError('bad-input', 'no document')
  }
}

export const formatsParser: Parser = {
  name: 'formats',
  file: jsonNear(
    samples.map(({ document }) => document),
    words,
  ),
  parse(bytes) {
    const { files, largestRead } = memoryFiles(contentsOf(bytes))
    const checkpoint = openCheckpoint('m', files)
    const configs = modelConfigs({ folder: 'm' }, configFiles, files)
    const detected = detectFormat(checkpoint.tensors, configs, 'm')
    if (!detected) throw new QuantizeError('bad-input', 'no format')
    for (const name of detected.linears.keys())
      dequantize(detected.format.unpack(name, part => checkpoint.tensors.get(part), configs))
    return largestRead()
  },
  quick: 6000,
}
