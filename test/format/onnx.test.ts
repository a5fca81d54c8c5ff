/** Exported graphs, run by ONNX Runtime: the logits of our own forward pass, at once and token by token. */
import fs from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.ts'
import { embed } from '../../src/engine/ort/activations.ts'
import { runBlock, runFinal } from '../../src/engine/ort/forward.ts'
import { computeLogits } from '../../src/engine/ort/head.ts'
import { createEngine, type Engine } from '../../src/engine/ort/session.ts'
import { QuantizeError } from '../../src/errors.ts'
import { loadModel } from '../../src/evaluate/load-model.ts'
import { nodeFiles } from '../../src/io/files.ts'
import { quantizeTo, readConfig, run, tinyLlama } from '../helpers/command-line.ts'
import { expected, maxDifference, variants } from '../helpers/fixture-model.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
let outputs = 0
const exported = async (source: string, ...options: string[]): Promise<string> => {
  const output = join(folder, `out${outputs++}`)
  await quantizeTo(output, source, '--method', 'rtn', '--format', 'onnx', '--unfit', 'keep', ...options)
  return output
}

let engine: Engine
beforeAll(async () => {
  engine = await createEngine(1)
})
afterAll(() => engine.release())

/** Logits [tokens, vocabulary] of one sequence by our own pass over the weights in the output. */
const ownLogits = async (output: string, sequence: Int32Array): Promise<Float32Array> => {
  const { model, read, checkpoint } = loadModel(output, nodeFiles)
  const activations = embed(model, read, [sequence])
  for (const block of model.blocks) await runBlock(engine, block, activations, linear => read(linear.weight), read)
  await runFinal(engine, model, activations, read)
  const { vocabulary, hidden, head } = model
  const weight = { vocabulary, hidden, weight: read(head.weight), bias: head.bias && read(head.bias) }
  const logits = await computeLogits(engine, { head: weight, hidden: activations.chunks[0].hidden })
  checkpoint.close()
  return logits
}

const graphOf = (output: string): string => {
  const [name] = fs.readdirSync(join(output, 'onnx')).filter(file => file.endsWith('.onnx'))
  return join(output, 'onnx', name)
}

type Values = Record<string, Tensor>

const integers = (values: readonly number[]): Tensor =>
  new Tensor('int64', BigInt64Array.from(values, BigInt), [1, values.length])

/** Runs some tokens behind those that `past` holds. */
const step = async (
  session: InferenceSession,
  tokens: readonly number[],
  seen: number,
  past: Values,
): Promise<Values> => {
  const known: Values = {
    input_ids: integers(tokens),
    attention_mask: integers(Array(seen + tokens.length).fill(1)),
    position_ids: integers(tokens.map((_, i) => seen + i)),
    ...past,
  }
  const empty = (name: string): Tensor => {
    const input = session.inputMetadata.find(metadata => metadata.name === name)!
    const shape = 'shape' in input ? (input.shape as (number | string)[]) : []
    return new Tensor('float32', new Float32Array(0), [1, Number(shape[1]), 0, Number(shape[3])])
  }
  const feeds = Object.fromEntries(session.inputNames.map(name => [name, known[name] ?? empty(name)]))
  return (await session.run(feeds)) as Values
}

const pastOf = (results: Values): Values =>
  Object.fromEntries(
    Object.entries(results).flatMap(([name, value]) =>
      name.startsWith('present.') ? [[name.replace('present.', 'past_key_values.'), value]] : [],
    ),
  )

const fixture = (name: string): string => fileURLToPath(new URL(`../../fixtures/transformers/${name}`, import.meta.url))

/** With a reason in one line where the graph's operators do not compute the model. */
const attempt = async (source: string): Promise<string | undefined> => {
  const { code, stderr } = await run(
    source,
    '--method',
    'rtn',
    '--format',
    'onnx',
    '--unfit',
    'keep',
    '--group',
    '16',
    '-o',
    join(folder, `try${outputs++}`),
  )
  if (code === 0) return undefined
  expect(code).toBe(4)
  return stderr
}

describe.each(variants)('%s', variant => {
  it('gives the logits of our own pass, at once and token by token', async () => {
    const refused = await attempt(fixture(variant))
    if (refused) return expect(refused).toMatch(/^error: [^\n]+$/m)
    const output = await exported(fixture(variant), '--bits', '8', '--group', '16')
    const session = await InferenceSession.create(graphOf(output))
    const [sequence] = expected(variant).sequences
    const own = await ownLogits(output, sequence)
    const whole = await step(session, [...sequence], 0, {})
    expect(maxDifference(whole.logits.data as Float32Array, own)).toBeLessThan(2e-5)
    // 8 bits are near the original, so that the graph cannot be that of another model
    const original = expected(variant).logits.subarray(0, own.length)
    const largest = maxDifference(original, new Float32Array(own.length))
    expect(maxDifference(own, original)).toBeLessThan(0.2 * largest)
    const start = 3
    let results = await step(session, [...sequence.subarray(0, start)], 0, {})
    for (let at = start; at < sequence.length; at++) {
      results = await step(session, [sequence[at]], at, pastOf(results))
      const vocabulary = results.logits.data.length
      const row = own.subarray(at * vocabulary, (at + 1) * vocabulary)
      expect(maxDifference(results.logits.data as Float32Array, row)).toBeLessThan(5e-5)
    }
    await session.release()
  })
})

it('most architectures are among them', async () => {
  const refused = await Promise.all(variants.map(async name => ((await attempt(fixture(name))) ? [name] : [])))
  expect(refused.flat().length).toBeLessThan(variants.length / 2)
})

describe('the files', () => {
  it('are announced to transformers.js and onnxruntime-genai, and hold a quantized head and embedding where asked', async () => {
    const output = await exported(tinyLlama, '--head-bits', '8', '--embed-bits', '8')
    const config = readConfig(output)
    expect(config['transformers.js_config']).toMatchObject({ use_external_data_format: { 'model_q4.onnx': 1 } })
    expect(config.quantization_config).toBeUndefined()
    const genai = JSON.parse(fs.readFileSync(join(output, 'genai_config.json'), 'utf8'))
    expect(genai.model.decoder).toMatchObject({ filename: 'onnx/model_q4.onnx', num_key_value_heads: 2, head_size: 32 })
    const sequence = Int32Array.from({ length: 12 }, (_, i) => (37 * i) % 1024)
    const session = await InferenceSession.create(graphOf(output))
    const { logits } = await step(session, [...sequence], 0, {})
    expect(maxDifference(logits.data as Float32Array, await ownLogits(output, sequence))).toBeLessThan(1e-3)
    await session.release()
    expect((await run('verify', output, '--source', tinyLlama)).code).toBe(0)
  })

  it('that are damaged are refused in one line', async () => {
    const output = await exported(tinyLlama)
    const data = join(output, 'onnx', 'model_q4.onnx_data')
    const [graph, bytes] = [fs.readFileSync(graphOf(output)), fs.readFileSync(data)]
    const refusal = (): string => {
      try {
        openCheckpoint(output, nodeFiles).close()
      } catch (error) {
        expect(error).toBeInstanceOf(QuantizeError)
        return (error as Error).message
      }
      return 'accepted'
    }
    fs.writeFileSync(data, bytes.subarray(0, bytes.length - 5000))
    expect(refusal()).toMatch(/model_q4.onnx_data: has \d+ bytes, and tensor .* would end at \d+/)
    fs.rmSync(data)
    expect(refusal()).toMatch(/no such file/)
    fs.symlinkSync('/etc/hostname', data)
    expect(refusal()).toMatch(/link out of its folder/)
    fs.rmSync(data)
    fs.writeFileSync(data, bytes)
    for (const [what, changed] of [
      [
        /plain file name/,
        Buffer.from(graph.toString('latin1').replaceAll('model_q4.onnx_data', 'x/../../etc/passwd'), 'latin1'),
      ],
      [/not an ONNX model|holds no|names|is no/, graph.subarray(0, graph.length >> 1)],
      [/not an ONNX model|holds no/, Buffer.from('this is no graph')],
    ] as const) {
      fs.writeFileSync(graphOf(output), changed)
      expect(refusal()).toMatch(what)
    }
  })
})
