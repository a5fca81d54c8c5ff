/**
 * Products of row-major float32 matrices by ONNX Runtime's Gemm: one session for each (form, alpha, accumulating or not), any shapes.
 *
 * A sum's bits are the same for every number of threads when M ≥ N (or K ≤ 128, or form TN) and alpha is not 1, where the result is
 * M × N and K the inner size. Wider results are cut into strips of columns, one a thread, and a strip of at most 64 columns sums K in
 * longer runs; with alpha 1 a strip of a single row goes to a matrix-vector kernel that sums in another order (both measured, both in
 * MLAS). Whatever ends in a checkpoint therefore orders its operands so, and uses alpha −1, or takes no more than `safeThreads`.
 */
import { node } from './onnx.ts'
import type { Engine, GraphSession } from './session.ts'

/** As stored: rows × columns, row-major, at the start of `data`. Never in shared memory (ONNX Runtime refuses it). */
export interface Matrix {
  readonly data: Float32Array
  readonly rows: number
  readonly columns: number
}

/** Columns of a block; a strip is made of whole ones. */
const stripBlock = 16

/**
 * Threads on which an M × N product has the bits that it has on one: its strips are then wider than 64 columns, or higher than one row.
 */
export const safeThreads = (rows: number, columns: number): number =>
  Math.max(1, columns > rows ? Math.floor(Math.ceil(columns / stripBlock) / 5) : Math.floor(rows / 2))

/** NN: A·B. NT: A·Bᵀ. TN: Aᵀ·B. */
export type Form = 'NN' | 'NT' | 'TN'

const session = (engine: Engine, form: Form, alpha: number, adds: boolean, threads?: number): Promise<GraphSession> =>
  engine.graph(
    `gemm ${form} ${alpha}${adds ? ' adds' : ''}`,
    () => {
      const inputs = adds ? ['a', 'b', 'c'] : ['a', 'b']
      const attributes = { transA: form === 'TN' ? 1 : 0, transB: form === 'NT' ? 1 : 0, alpha: { float: alpha } }
      return {
        nodes: [node('Gemm', inputs, ['y'], attributes)],
        inputs: inputs.map(name => ({ name, shape: [`${name}0`, `${name}1`] })),
        outputs: [{ name: 'y' }],
      }
    },
    threads,
  )

const view = (engine: Engine, { data, rows, columns }: Matrix) =>
  engine.tensor(data.subarray(0, rows * columns), [rows, columns])

const resultShape = (form: Form, a: Matrix, b: Matrix): readonly [number, number] => [
  form === 'TN' ? a.columns : a.rows,
  form === 'NT' ? b.rows : b.columns,
]

/** into[M, N] = alpha · op(A)·op(B), on `threads` at most. `into` may not overlap A or B. */
export const multiply = async (
  engine: Engine,
  form: Form,
  a: Matrix,
  b: Matrix,
  into: Float32Array,
  alpha = 1,
  threads?: number,
): Promise<void> => {
  const [rows, columns] = resultShape(form, a, b)
  const gemm = await session(engine, form, alpha, false, threads)
  await gemm.run({ a: view(engine, a), b: view(engine, b) }, { y: view(engine, { data: into, rows, columns }) })
}

/** into[M, N] += alpha · op(A)·op(B), in place, on `threads` at most. `into` may not overlap A or B. */
export const accumulate = async (
  engine: Engine,
  form: Form,
  a: Matrix,
  b: Matrix,
  into: Float32Array,
  alpha: number,
  threads?: number,
): Promise<void> => {
  const [rows, columns] = resultShape(form, a, b)
  const gemm = await session(engine, form, alpha, true, threads)
  const c = view(engine, { data: into, rows, columns })
  await gemm.run({ a: view(engine, a), b: view(engine, b), c }, { y: c })
}

/** A + B·C in new memory, A [M, N] as B's rows and C's columns say. The bits do not depend on the number of threads. */
export const plusProduct = async (engine: Engine, a: Float32Array, b: Matrix, c: Matrix): Promise<Float32Array> => {
  const negated = a.map(value => -value)
  await accumulate(engine, 'NN', b, c, negated, -1, safeThreads(b.rows, c.columns))
  for (let i = 0; i < negated.length; i++) negated[i] = -negated[i]
  return negated
}

/** A matrix [n, n]. */
export const square = (data: Float32Array): Matrix => {
  const n = Math.sqrt(data.length)
  return { data, rows: n, columns: n }
}
