/** What errors of single groups of weights change in the outputs: dᵀ·G·d for each row and group, G the group's block of the Gram matrix. */
import { node } from './onnx.ts'
import { safeThreads } from './products.ts'
import type { Engine } from './session.ts'

/** The blocks of a Gram matrix [n, n] on its diagonal: [n / size, size, size]. */
export const diagonalBlocks = (gram: Float32Array, n: number, size: number): Float32Array => {
  const blocks = new Float32Array(n * size)
  for (let row = 0; row < n; row++) {
    const start = row - (row % size)
    blocks.set(gram.subarray(row * n + start, row * n + start + size), row * size)
  }
  return blocks
}

/**
 * @param delta [rows, n]
 * @param blocks as diagonalBlocks gives them, n / size of size × size
 * @returns [n / size, rows]
 */
export const groupErrors = async (
  engine: Engine,
  delta: Float32Array,
  rows: number,
  blocks: Float32Array,
  size: number,
): Promise<Float32Array> => {
  const n = delta.length / rows
  const groups = n / size
  const session = await engine.graph(
    'group errors',
    () => ({
      nodes: [
        node('Transpose', ['delta'], ['byGroup'], { perm: [1, 0, 2] }),
        node('MatMul', ['byGroup', 'blocks'], ['products']),
        node('Mul', ['products', 'byGroup'], ['terms']),
        node('ReduceSum', ['terms', 'axes'], ['errors'], { keepdims: 0 }),
      ],
      constants: [{ name: 'axes', type: 'int64', shape: [1], data: BigInt64Array.of(-1n) }],
      inputs: [
        { name: 'delta', shape: ['rows', 'groups', 'size'] },
        { name: 'blocks', shape: ['groups', 'size', 'size1'] },
      ],
      outputs: [{ name: 'errors' }],
    }),
    safeThreads(rows, size),
  )
  const errors = new Float32Array(groups * rows)
  await session.run(
    { delta: engine.tensor(delta, [rows, groups, size]), blocks: engine.tensor(blocks, [groups, size, size]) },
    { errors: engine.tensor(errors, [groups, rows]) },
  )
  return errors
}
