/** A folder that holds a decoder in ONNX, as onnxruntime-node wants it. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type InferenceSession, Tensor } from 'onnxruntime-node'

export const readJson = (folder: string, file: string) => JSON.parse(readFileSync(join(folder, file), 'utf8'))

export const onnxFile = (folder: string): string => {
  const [file] = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.onnx'))
  return join(folder, file)
}

export const integers = (values: readonly number[]): Tensor =>
  new Tensor('int64', BigInt64Array.from(values, BigInt), [1, values.length])

/** [1, kvHeads, 0, headDim]: nothing seen yet. */
export const emptyPast = ({ name, isTensor, ...node }: InferenceSession.ValueMetadata): Tensor => {
  if (!isTensor || !('shape' in node)) throw new Error(`input ${name} is not a tensor`)
  const shape = node.shape.map((size, axis) => (axis === 0 ? 1 : typeof size === 'number' && axis !== 2 ? size : 0))
  return node.type === 'float16'
    ? new Tensor('float16', new Uint16Array(0), shape)
    : new Tensor('float32', new Float32Array(0), shape)
}
