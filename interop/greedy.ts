/**
 * Does a model in ONNX generate, with its cache, what transformers generates with the same weights?
 *
 *     npx tsx interop/greedy.ts MODEL --a PYTHON [--bits 4] [--tokens 32]
 *
 * Quantizes MODEL to format onnx, generates greedily by onnxruntime-node, one token a step, and by transformers from the decoded weights.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Tokenizer } from '@huggingface/tokenizers'
import { Command } from 'commander'
import { InferenceSession, type Tensor } from 'onnxruntime-node'
import { emptyPast, integers, onnxFile, readJson } from './onnx-model.ts'
import { pythonJson, quantize } from './programs.ts'

const prompt = 'The capital of France is'

const mostLikely = (logits: Float32Array, vocabulary: number): number => {
  const last = logits.subarray(logits.length - vocabulary)
  return last.reduce((best, value, token) => (value > last[best] ? token : best), 0)
}

/** What each `present` output is called as the next step's input. */
const pastName = (output: string): string => output.replace(/^present/, 'past_key_values')

const generate = async (folder: string, ids: readonly number[], count: number): Promise<number[]> => {
  const session = await InferenceSession.create(onnxFile(folder))
  const past: Record<string, Tensor> = Object.fromEntries(
    session.inputMetadata.filter(({ name }) => name.startsWith('past')).map(node => [node.name, emptyPast(node)]),
  )
  const made: number[] = []
  let given = [...ids]
  let seen = 0
  for (let step = 0; step < count; step++) {
    const total = seen + given.length
    const named: Record<string, Tensor> = {
      input_ids: integers(given),
      attention_mask: integers(Array.from({ length: total }, () => 1)),
      position_ids: integers(given.map((_, i) => seen + i)),
      ...past,
    }
    const feeds = Object.fromEntries(session.inputNames.map(name => [name, named[name]]))
    const { logits, ...present } = await session.run(feeds)
    for (const [name, value] of Object.entries(present)) past[pastName(name)] = value as Tensor
    made.push(mostLikely(Float32Array.from(logits.data as Float32Array), logits.dims[2]))
    seen = total
    given = [made[made.length - 1]]
  }
  await session.release()
  return made
}

const main = async (model: string, { a, bits, tokens }: { a: string; bits: string; tokens: string }): Promise<void> => {
  const folder = mkdtempSync(join(tmpdir(), 'quantize-greedy-'))
  try {
    const [onnx, plain] = [join(folder, 'onnx'), join(folder, 'plain')]
    quantize(model, '--method', 'rtn', '--bits', bits, '--group', '32', '--format', 'onnx', '-o', onnx)
    quantize('convert', onnx, '--format', 'safetensors:f32', '-o', plain)
    const tokenizer = new Tokenizer(readJson(onnx, 'tokenizer.json'), readJson(onnx, 'tokenizer_config.json'))
    const { ids } = tokenizer.encode(prompt, { add_special_tokens: false })
    const ours = await generate(onnx, ids, Number(tokens))
    const script = new URL('greedy.py', import.meta.url)
    const { ids: theirs } = pythonJson(a, script, plain, ids.join(','), tokens)
    const same = ours.join() === theirs.join()
    process.stdout.write(`onnxruntime-node: ${JSON.stringify(tokenizer.decode(ours))}\n`)
    process.stdout.write(`transformers:     ${JSON.stringify(tokenizer.decode(theirs))}\n`)
    process.stdout.write(`${ours.length} tokens: ${same ? 'equal' : 'NOT equal'}\n`)
    process.exitCode = same ? 0 : 1
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

new Command('greedy')
  .argument('<model>', 'model folder')
  .requiredOption('--a <python>', 'environment a: transformers')
  .option('--bits <n>', 'bits of a code', '4')
  .option('--tokens <n>', 'tokens generated', '32')
  .action(main)
  .parse()
