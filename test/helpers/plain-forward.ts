/**
 * Llama, Mistral and OPT in plain float64 loops, straight from config fields and tensor names: knows nothing of ops, stages or
 * graphs, and so notices when those are mixed up.
 */
import type { RawConfig } from './fixture-model.ts'

type Matrix = readonly number[][] // [rows][features]
export type TensorOf = (name: string) => ArrayLike<number>

/** Taps of a block in stage order, and its output, for one sequence. */
export interface PlainBlock {
  readonly taps: readonly Matrix[]
  readonly output: Matrix
}

const map = (x: Matrix, f: (value: number, row: number, column: number) => number): Matrix =>
  x.map((row, r) => row.map((value, c) => f(value, r, c)))
const add = (a: Matrix, b: Matrix): Matrix => map(a, (value, r, c) => value + b[r][c])

const linear = (x: Matrix, tensor: TensorOf, name: string, bias: boolean): Matrix => {
  const weight = tensor(`${name}.weight`)
  const width = x[0].length
  const offset = bias ? tensor(`${name}.bias`) : undefined
  return x.map(row =>
    Array.from({ length: weight.length / width }, (_, o) =>
      row.reduce((sum, value, i) => sum + value * weight[o * width + i], offset ? offset[o] : 0),
    ),
  )
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length

const rms = (x: Matrix, weight: ArrayLike<number>, eps: number): Matrix =>
  x.map(row => {
    const scale = 1 / Math.sqrt(mean(row.map(value => value * value)) + eps)
    return row.map((value, i) => value * scale * weight[i])
  })

const layer = (x: Matrix, tensor: TensorOf, name: string): Matrix =>
  x.map(row => {
    const centre = mean(row)
    const scale = 1 / Math.sqrt(mean(row.map(value => (value - centre) ** 2)) + 1e-5)
    return row.map((value, i) => (value - centre) * scale * tensor(`${name}.weight`)[i] + tensor(`${name}.bias`)[i])
  })

/** Gauss error function by its series: exact enough for |x| < 6. */
const erf = (x: number): number => {
  if (Math.abs(x) > 5) return Math.sign(x)
  let sum = 0
  for (let n = 0, term = x; n < 200; n++, term *= (-x * x) / n) sum += term / (2 * n + 1)
  return (2 / Math.sqrt(Math.PI)) * sum
}

const activations: Record<string, (x: number) => number> = {
  silu: x => x / (1 + Math.exp(-x)),
  relu: x => Math.max(0, x),
  gelu: x => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  gelu_pytorch_tanh: x => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
}

interface Heads {
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly window: number
  readonly frequencies?: readonly number[]
}

const rotate = (x: Matrix, headDim: number, frequencies: readonly number[]): Matrix =>
  map(x, (value, position, column) => {
    const half = headDim / 2
    const i = column % headDim
    const angle = position * frequencies[i % half]
    const other = i < half ? -x[position][column + half] : x[position][column - half]
    return value * Math.cos(angle) + other * Math.sin(angle)
  })

const attention = (q: Matrix, k: Matrix, v: Matrix, { heads, kvHeads, headDim, window }: Heads): Matrix =>
  q.map((row, i) => {
    const first = Math.max(0, i - window + 1)
    return Array.from({ length: heads }, (_, head) => {
      const at = Math.floor(head / (heads / kvHeads)) * headDim
      const scores = k.slice(first, i + 1).map(key => {
        let dot = 0
        for (let d = 0; d < headDim; d++) dot += row[head * headDim + d] * key[at + d]
        return Math.exp(dot / Math.sqrt(headDim))
      })
      const total = scores.reduce((sum, score) => sum + score, 0)
      return Array.from({ length: headDim }, (_, d) =>
        scores.reduce((sum, score, j) => sum + (score / total) * v[first + j][at + d], 0),
      )
    }).flat()
  })

const frequenciesOf = (config: RawConfig, headDim: number): readonly number[] => {
  const rope = config.rope_parameters as Record<string, number | string>
  const plain = Array.from({ length: headDim / 2 }, (_, i) => Number(rope.rope_theta) ** ((-2 * i) / headDim))
  if (rope.rope_type === 'linear') return plain.map(f => f / Number(rope.factor))
  if (rope.rope_type !== 'llama3') return plain
  const [factor, low, high, context] = [
    'factor',
    'low_freq_factor',
    'high_freq_factor',
    'original_max_position_embeddings',
  ].map(name => Number(rope[name]))
  return plain.map(f => {
    const wavelength = (2 * Math.PI) / f
    if (wavelength < context / high) return f
    if (wavelength > context / low) return f / factor
    const smooth = (context / wavelength - low) / (high - low)
    return ((1 - smooth) * f) / factor + smooth * f
  })
}

const number = (config: RawConfig, field: string): number => Number(config[field])

const llamaBlock = (config: RawConfig, tensor: TensorOf, name: string, x: Matrix): PlainBlock => {
  const headDim = number(config, 'head_dim')
  const heads = number(config, 'num_attention_heads')
  const eps = number(config, 'rms_norm_eps')
  const frequencies = frequenciesOf(config, headDim)
  const kvHeads = number(config, 'num_key_value_heads')
  const window = typeof config.sliding_window === 'number' ? config.sliding_window : Number.POSITIVE_INFINITY
  const project = (value: Matrix, part: string) =>
    linear(value, tensor, `${name}.self_attn.${part}_proj`, config.attention_bias === true)
  const mlp = (value: Matrix, part: string) =>
    linear(value, tensor, `${name}.mlp.${part}_proj`, config.mlp_bias === true)
  const xn = rms(x, tensor(`${name}.input_layernorm.weight`), eps)
  const q = rotate(project(xn, 'q'), headDim, frequencies)
  const k = rotate(project(xn, 'k'), headDim, frequencies)
  const a = attention(q, k, project(xn, 'v'), { heads, kvHeads, headDim, window })
  const h = add(x, project(a, 'o'))
  const hn = rms(h, tensor(`${name}.post_attention_layernorm.weight`), eps)
  const up = mlp(hn, 'up')
  const m = map(mlp(hn, 'gate'), (value, r, c) => activations[String(config.hidden_act)](value) * up[r][c])
  return { taps: [xn, a, hn, m], output: add(h, mlp(m, 'down')) }
}

const optBlock = (config: RawConfig, tensor: TensorOf, name: string, x: Matrix): PlainBlock => {
  const heads = number(config, 'num_attention_heads')
  const headDim = number(config, 'hidden_size') / heads
  const bias = config.enable_bias === true
  const project = (value: Matrix, part: string) => linear(value, tensor, `${name}.${part}`, bias)
  const xn = layer(x, tensor, `${name}.self_attn_layer_norm`)
  const [q, k, v] = ['q', 'k', 'v'].map(part => project(xn, `self_attn.${part}_proj`))
  const a = attention(q, k, v, { heads, kvHeads: heads, headDim, window: Number.POSITIVE_INFINITY })
  const h = add(x, project(a, 'self_attn.out_proj'))
  const hn = layer(h, tensor, `${name}.final_layer_norm`)
  const m = map(project(hn, 'fc1'), activations[String(config.activation_function)])
  return { taps: [xn, a, hn, m], output: add(h, project(m, 'fc2')) }
}

/** Every block's taps and output for one sequence. */
export const plainBlocks = (config: RawConfig, tensor: TensorOf, ids: Int32Array): readonly PlainBlock[] => {
  const isOpt = config.model_type === 'opt'
  const hidden = number(config, 'hidden_size')
  const prefix = isOpt ? 'model.decoder.' : 'model.'
  const row = (name: string, index: number) =>
    Array.from({ length: hidden }, (_, i) => tensor(`${prefix}${name}.weight`)[index * hidden + i])
  const positions = Array.from(ids, (_, position) => (isOpt ? row('embed_positions', position + 2) : undefined))
  let x: Matrix = Array.from(ids, (id, position) =>
    row('embed_tokens', id).map((value, i) => value + (positions[position]?.[i] ?? 0)),
  )
  return Array.from({ length: number(config, 'num_hidden_layers') }, (_, index) => {
    const block = (isOpt ? optBlock : llamaBlock)(config, tensor, `${prefix}layers.${index}`, x)
    x = block.output
    return block
  })
}
