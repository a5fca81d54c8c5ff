/**
 * onnxruntime-node as a loader: JSON lines in and out, as load.py. The whole prompt at once, with an empty past.
 * Token ids come from the model's own tokenizer, without special tokens.
 */
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { Tokenizer } from '@huggingface/tokenizers'
import { InferenceSession, type Tensor } from 'onnxruntime-node'
import { emptyPast, integers, onnxFile, readJson } from './onnx-model.ts'
import type { LoaderAnswer, LoaderRequest } from './programs.ts'

type Scoring = Required<Pick<LoaderRequest, 'folder' | 'text' | 'seq' | 'windows'>>

const tokenWindows = ({ folder, text, seq, windows }: Scoring): number[][] => {
  const tokenizer = new Tokenizer(readJson(folder, 'tokenizer.json'), readJson(folder, 'tokenizer_config.json'))
  const { ids } = tokenizer.encode(readFileSync(text, 'utf8').replace(/\r\n?/g, '\n'), { add_special_tokens: false })
  const count = Math.min(windows, Math.floor(ids.length / seq))
  return Array.from({ length: count }, (_, index) => ids.slice(index * seq, (index + 1) * seq))
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
