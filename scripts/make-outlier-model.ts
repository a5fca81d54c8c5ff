/**
 * Writes a Llama that computes the same function through activations with strong outliers, as models from about 7 billion parameters on have
 * them (LLM.int8(), arXiv 2208.07339):
 *   npx tsx scripts/make-outlier-model.ts <model folder> <output folder>
 * Six channels of what each norm gives are multiplied by 16, 32 or 64, the columns of the linears behind it divided: powers of two, so that
 * every product of the forward pass is the same to the bit. The same channels stand out in all blocks, as they do in those models.
 */
import fs from 'node:fs'
import { basename, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { modelConfigs } from '../src/checkpoint/beside.ts'
import { openCheckpoint } from '../src/checkpoint/open-checkpoint.ts'
import { createShardWriter, planShards } from '../src/checkpoint/write-safetensors.ts'
import type { Model, TensorSource } from '../src/contracts.ts'
import { fromFloat32, isFloat, toFloat32 } from '../src/dtype/convert.ts'
import { nodeFiles } from '../src/io/files.ts'
import { buildModel } from '../src/model/graph.ts'

const factors = [16, 32, 64, 16, 32, 64]

/** Evenly spread, none at the ends. */
const factorOf = (width: number): ReadonlyMap<number, number> =>
  new Map(factors.map((factor, i) => [Math.floor(((i + 0.5) * width) / factors.length), factor]))

/** What each tensor's last axis is multiplied by: that of a norm, and of the linears that read it. */
const changesOf = ({ blocks }: Model): ReadonlyMap<string, ReadonlyMap<number, number>> => {
  const stages = blocks.flatMap(block => block.stages).filter(({ from }) => from.via === 'norm')
  return new Map(
    stages.flatMap(({ from, width, linears }) => {
      const factor = factorOf(width)
      const inverse = new Map([...factor].map(([channel, value]) => [channel, 1 / value]))
      const behind = linears.map(({ weight }) => [weight.tensor, inverse] as const)
      return [[`${from.name}.weight`, factor] as const, ...behind]
    }),
  )
}

/** @throws Error for a value that its dtype does not hold times the factor */
const changed = (tensor: TensorSource, factor: ReadonlyMap<number, number>): Uint8Array => {
  const { name, dtype, shape } = tensor
  if (!isFloat(dtype) || dtype === 'F64') throw new Error(`${name} is ${dtype}; F32, F16 and BF16 are changed`)
  const values = toFloat32(tensor.read(), dtype)
  const width = shape[shape.length - 1]
  for (const [channel, by] of factor) for (let i = channel; i < values.length; i += width) values[i] *= by
  const bytes = fromFloat32(values, dtype)
  const lost = toFloat32(bytes, dtype).findIndex((value, i) => value !== values[i])
  if (lost >= 0) throw new Error(`${name}: ${dtype} does not hold value ${lost}, ${values[lost]}`)
  return bytes
}

export const makeOutlierModel = (source: string, output: string): void => {
  const checkpoint = openCheckpoint(source, nodeFiles)
  const { 'config.json': config } = modelConfigs(checkpoint, ['config.json'], nodeFiles)
  const model = buildModel(config as Readonly<Record<string, unknown>>, checkpoint.tensors, join(source, 'config.json'))
  if (model.arch !== 'llama') throw new Error(`${source} is ${model.arch}; this is for llama`)
  const changes = changesOf(model)
  fs.mkdirSync(output, { recursive: true })
  const plans = planShards([...checkpoint.tensors.values()], 5e9)
  const writer = createShardWriter(output, plans, nodeFiles)
  for (const [name, tensor] of checkpoint.tensors) {
    const factor = changes.get(name)
    writer.write(name, factor ? changed(tensor, factor) : tensor.read())
  }
  writer.finish()
  writer.close()
  checkpoint.close()
  const others = fs
    .readdirSync(source)
    .filter(name => /\.(json|txt|model)$/.test(name) && !name.endsWith('.index.json'))
  for (const name of others) fs.copyFileSync(join(source, name), join(output, basename(name)))
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [source, output] = process.argv.slice(2)
  if (!source || !output) throw new Error('usage: npx tsx scripts/make-outlier-model.ts <model folder> <output folder>')
  makeOutlierModel(source, output)
}
