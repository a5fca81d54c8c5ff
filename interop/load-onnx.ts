/**
 * onnxruntime-node as a loader: JSON lines in and out, as load.py. The whole prompt at once, with an empty past.
 * Token ids come from the model's own tokenizer, without special tokens.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Tokenizer } from '@huggingface/tokenizers'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import type { LoaderAnswer, LoaderRequest } from './programs.ts'

type Scoring = Required<Pick<LoaderRequest, 'folder' | 'text' | 'seq' | 'windows'>>

const readJson = (folder: string, file: string) => JSON.parse(readFileSync(join(folder, file), 'utf8'))

const onnxFile = (folder: string): string => {
  const [file] = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.onnx'))
  return join(folder, file)
}

const tokenWindows = ({ folder, text, seq, windows }: Scoring): number[][] => {
  const tokenizer = new Tokenizer(readJson(folder, 'tokenizer.json'), readJson(folder, 'tokenizer_config.json'))
  const { ids } = tokenizer.encode(readFileSync(text, 'utf8').replace(/\r\n?/g, '\n'), { add_special_tokens: false })
  const count = Math.min(windows, Math.floor(ids.length / seq))
  return Array.from({ length: count }, (_, index) => ids.slice(index * seq, (index + 1) * seq))
}

const integers = (values: readonly number[]): Tensor =>
  new Tensor('int64', BigInt64Array.from(values, BigInt), [1, values.length])

/** [1, kvHeads, 0, headDim]: nothing seen yet. */
const emptyPast = ({ name, isTensor, ...node }: InferenceSession.ValueMetadata): Tensor => {
  if (!isTensor || !('shape' in node)) throw new Error(`input ${name} is not a tensor`)
  const shape = node.shape.map((size, axis) => (axis === 0 ? 1 : typeof size === 'number' && axis !== 2 ? size : 0))
  return node.type === 'float16'
    ? new Tensor('float16', new Uint16Array(0), shape)
    : new Tensor('float32', new Float32Array(0), shape)
}

const feedsOf = (session: InferenceSession, window: readonly number[]): Record<string, Tensor> => {
  const known: Record<string, Tensor> = {
    input_ids: integers(window),
    attention_mask: integers(window.map(() => 1)),
    position_ids: integers(window.map((_, position) => position)),
  }
  return Object.fromEntries(session.inputMetadata.map(node => [node.name, known[node.name] ?? emptyPast(node)]))
}

/** −log p of tokens 2 … n of a window. */
const negativeLogLikelihood = (logits: Float32Array, window: readonly number[]): number => {
  const vocabulary = logits.length / window.length
  return window.slice(1).reduce((total, token, position) => {
    const row = logits.subarray(position * vocabulary, (position + 1) * vocabulary)
    const largest = row.reduce((a, b) => Math.max(a, b))
    const sum = row.reduce((a, b) => a + Math.exp(b - largest), 0)
    return total + Math.log(sum) + largest - row[token]
  }, 0)
}

const perplexity = async (request: Scoring): Promise<LoaderAnswer> => {
  const session = await InferenceSession.create(onnxFile(request.folder))
  const windows = tokenWindows(request)
  const half = session.outputMetadata.some(node => node.isTensor && node.type === 'float16')
  let total = 0
  for (const window of windows) {
    const { logits } = await session.run(feedsOf(session, window), ['logits'])
    total += negativeLogLikelihood(Float32Array.from(logits.data as Float32Array), window)
  }
  await session.release()
  const mean = total / (windows.length * (request.seq - 1))
  return { perplexity: Math.exp(mean), precision: half ? 'float16' : 'float32', note: '' }
}

for await (const line of createInterface({ input: process.stdin })) {
  const answer = await perplexity(JSON.parse(line)).catch(({ message }: Error) => ({ error: message }))
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
