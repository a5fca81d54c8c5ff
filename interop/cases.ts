/** What is written and who reads it: every format × grid × bits that its runtimes load. */
import type { Scheme } from './formulas.ts'

/** Who reads a checkpoint: a loader of load.py in Python environment a, b or c (docs/interop.md), or onnxruntime-node. */
export interface Reader {
  readonly environment: 'a' | 'b' | 'c' | 'node'
  readonly loader: string
}

const reader =
  (environment: Reader['environment']) =>
  (loader: string): Reader => ({ environment, loader })

const [a, b, c] = [reader('a'), reader('b'), reader('c')]

/** Readers of a format that was not read by its options alone. */
const readers = {
  gptq: [b('gptqmodel'), b('hf')],
  /** transformers picks a kernel that has no whole rows. */
  gptqmodel: [b('gptqmodel')],
  awq: [b('gptqmodel'), b('hf'), a('mlx')],
  ct: [a('hf')],
  ctUnpack: [a('ct-unpack')],
  ctAsymmetric: [a('hf'), c('hf')],
  hqq: [a('hqq')],
  bnb: [a('hf')],
  quanto: [a('quanto')],
  mlx: [a('mlx')],
  onnx: [a('onnx'), { environment: 'node', loader: 'onnxruntime-node' } as Reader],
  codebook: [a('codebook')],
  plain: [a('hf')],
  gguf: [a('gguf')],
} as const

export interface Case extends Scheme {
  readonly method: 'rtn' | 'gptq' | 'awq' | 'smoothquant'
  /** Options beyond those of the scheme. */
  readonly more: readonly string[]
  /** Windows that are scored at least: of models whose runtime rounds activations, where values that go to another code move the perplexity. */
  readonly windows?: number
  readonly readers: readonly Reader[]
}

interface Choice extends Partial<Scheme> {
  readonly method?: Case['method']
  readonly more?: string
  readonly windows?: number
}

const cases =
  (format: string, readBy: readonly Reader[]) =>
  ({ method = 'rtn', more = '', ...scheme }: Choice): Case => ({
    ...{ format, grid: 'int', bits: 4, group: 64, symmetric: true },
    ...scheme,
    method,
    more: more === '' ? [] : more.split(' '),
    readers: readBy,
  })

const each = <T>(values: readonly T[], make: (value: T) => readonly Case[]): Case[] => values.flatMap(make)

/** Calibrated: error feedback, in each order of columns; and to nearest, every width. */
const gptqCases = (): Case[] => {
  const [v1, v2] = [cases('gptq', readers.gptq), cases('gptq:v2', readers.gptq)]
  const channel = cases('gptq', readers.gptqmodel)
  const ordered = { method: 'gptq', more: '--act-order g_idx', ordered: true } as const
  return [
    v1({ method: 'gptq' }),
    v2({ method: 'gptq', symmetric: false }),
    v2({ method: 'gptq', group: 32, more: '--clip mse' }),
    channel({ method: 'gptq', group: 'channel' }),
    v1(ordered),
    v2({ ...ordered, bits: 3, symmetric: false }),
    // to nearest, or with all linears symmetric, a real model is noise at 2 bits, in which float16 and float32 go apart
    v1({ bits: 2, group: 32, method: 'gptq', more: '--include *.down_proj' }),
    v2({ bits: 2, group: 32, symmetric: false, method: 'gptq' }),
    ...each([3, 4, 8], bits => [v1({ bits, group: 32 }), v2({ bits, group: 32, symmetric: false })]),
  ]
}

const compressedTensorsCases = (): Case[] => {
  const symmetric = cases('compressed-tensors', readers.ct)
  const asymmetric = cases('compressed-tensors', readers.ctAsymmetric)
  const ordered = cases('compressed-tensors', readers.ctUnpack)
  const int8 = { bits: 8, group: 'channel' } as const
  return [
    ...each([2, 3, 4, 5, 6, 7, 8], bits => [symmetric({ bits }), asymmetric({ bits, symmetric: false })]),
    ...each([4, 8], bits => [symmetric({ bits, group: 'channel' })]),
    symmetric({ method: 'gptq', group: 128 }),
    ordered({ method: 'gptq', more: '--act-order g_idx', ordered: true }),
    // as gguf's: roundings of inputs that flip move 2 windows by 1 %, 40 by 0.05 %
    ...each(['int8', 'int8:asym', 'int8:group=32'], inputs => [
      symmetric({ ...int8, more: `--activations ${inputs}`, windows: 40 }),
    ]),
    symmetric({ grid: 'fp8', ...int8 }),
    symmetric({ grid: 'fp8', ...int8, more: '--activations fp8' }),
    symmetric({ ...int8, more: '--activations int8 --activation-scales minmax', windows: 40 }),
    symmetric({ ...int8, method: 'smoothquant', windows: 40 }),
    symmetric({ grid: 'fp8', ...int8, more: '--activations fp8 --activation-scales minmax' }),
    symmetric({ grid: 'fp8', bits: 8, group: 'tensor' }),
    symmetric({ grid: 'fp8', bits: 8, group: 'block' }),
    symmetric({ grid: 'nvfp4', group: 16 }),
    symmetric({ grid: 'mxfp4', group: 32 }),
    symmetric({ grid: 'mxfp8', bits: 8, group: 32 }),
  ]
}

const awqCases = (): Case[] => {
  const awq = cases('awq', readers.awq)
  return [
    ...each([32, 64, 128], group => [awq({ group, symmetric: false })]),
    awq({}),
    awq({ method: 'awq', symmetric: false }),
    awq({ method: 'gptq', symmetric: false, more: '--transform awq --clip mse' }),
  ]
}

const hqqCases = (): Case[] => {
  const hqq = cases('hqq', readers.hqq)
  return each([1, 2, 3, 4, 8], bits => [hqq({ bits, symmetric: false })])
}

const bnbCases = (): Case[] => {
  const bnb = cases('bnb', readers.bnb)
  const double = cases('bnb:double', readers.bnb)
  return [
    ...each([64, 128], group => [bnb({ grid: 'nf4', group }), bnb({ grid: 'bnb-fp4', group })]),
    ...each(['nf4', 'bnb-fp4'], grid => [double({ grid, nested: true })]),
    // 0.8 % apart on 2 windows of smollm2-135m, 0.01 % on 80
    bnb({ bits: 8, group: 'channel', windows: 80 }),
  ]
}

const quantoCases = (): Case[] => {
  const quanto = cases('quanto', readers.quanto)
  return [
    // as gptq: 2 bits to nearest are noise in a real model
    ...each([2, 4], bits => [
      quanto({ bits, group: 'implied', symmetric: false, method: bits === 2 ? 'gptq' : 'rtn' }),
    ]),
    quanto({ bits: 8, group: 'channel' }),
    ...each(['fp8', 'fp8-e5m2'], grid => [quanto({ grid, bits: 8, group: 'channel' })]),
  ]
}

const mlxCases = (): Case[] => {
  const mlx = cases('mlx', readers.mlx)
  return [
    ...each([2, 3, 4, 5, 6, 8], bits => [mlx({ bits, symmetric: false })]),
    ...each([32, 128], group => [mlx({ group, symmetric: false })]),
    mlx({ symmetric: false, more: '--embed-bits none' }),
    mlx({ grid: 'mxfp4', group: 32 }),
    mlx({ grid: 'nvfp4', group: 16 }),
    mlx({ grid: 'mxfp8', bits: 8, group: 32 }),
  ]
}

const onnxCases = (): Case[] => {
  const onnx = cases('onnx', readers.onnx)
  return each([2, 4, 8], bits => [onnx({ bits, group: 32 }), onnx({ bits, group: 32, symmetric: false })])
}

/** Every grid once, and what only this format says: groups of a tensor, of blocks, in any order. */
const codebookCases = (): Case[] => {
  const codebook = cases('codebook', readers.codebook)
  const eightBits = { bits: 8, group: 'channel' } as const
  return [
    ...each([1, 2, 3, 4, 5, 6, 7, 8], bits => [codebook({ bits, symmetric: bits % 2 === 0 })]),
    codebook({ method: 'gptq', more: '--act-order g_idx', ordered: true }),
    ...each(['fp4', 'nf4', 'bnb-fp4'], grid => [codebook({ grid, group: 32 })]),
    ...each(['fp8', 'fp8-e5m2'], grid => [codebook({ grid, ...eightBits })]),
    ...each(['tensor', 'block'], group => [codebook({ grid: 'fp8', bits: 8, group })]),
    codebook({ grid: 'nvfp4', group: 16 }),
    codebook({ grid: 'mxfp4', group: 32 }),
    codebook({ grid: 'mxfp8', bits: 8, group: 32 }),
  ]
}

/** Decoded weights: any runtime's. */
const plainCases = (): Case[] =>
  each(['safetensors:f32', 'safetensors:bf16', 'safetensors:f16'], format => [cases(format, readers.plain)({})])

const fp8Cases = (): Case[] => {
  const fp8 = cases('fp8', readers.plain)
  return each(['block', 'tensor'], group => [fp8({ grid: 'fp8', bits: 8, group })])
}

/**
 * Every mix; and codes by error feedback. Roundings of inputs that fall one way here and the other there move the perplexity of 2 windows of
 * smollm2-135m by up to 2 %, of 40 by 0.1 %.
 */
const ggufCases = (): Case[] => {
  const gguf = (mix: string) => cases(`gguf:${mix}`, readers.gguf)
  const mixes = ['q8_0', 'q6_k', 'q5_k_m', 'q5_k_s', 'q4_k_m', 'q4_k_s', 'q3_k_l', 'q3_k_m', 'q3_k_s', 'q2_k']
  const others = ['iq4_xs', 'iq4_nl', 'q5_1', 'q5_0', 'q4_1', 'q4_0', 'mxfp4']
  return [
    ...each([...mixes, ...others], mix => [gguf(mix)({ group: 'implied', windows: 40 })]),
    ...each(['q4_k_m', 'q3_k_m', 'q4_0', 'iq4_xs'], mix => [
      gguf(mix)({ group: 'implied', method: 'gptq', windows: 40 }),
    ]),
  ]
}

export const everyCase: readonly Case[] = [
  ...gptqCases(),
  ...awqCases(),
  ...compressedTensorsCases(),
  ...fp8Cases(),
  ...hqqCases(),
  ...bnbCases(),
  ...quantoCases(),
  ...mlxCases(),
  ...onnxCases(),
  ...codebookCases(),
  ...plainCases(),
  ...ggufCases(),
]

/** Our format's name for a checkpoint of another maker, and who reads it. */
export interface Peer {
  readonly format: string
  readonly readers: readonly Reader[]
  /** We say what it is and what we lack, and do not read it. */
  readonly refused?: true
}

/** By the beginning of the folder's name, as peers.py names them; the longest counts. */
const peers: Readonly<Record<string, Peer>> = {
  'bnb-': { format: 'bnb', readers: readers.bnb },
  'quanto-': { format: 'quanto', readers: readers.quanto },
  'hqq-': { format: 'hqq', readers: readers.hqq },
  'mlx-': { format: 'mlx', readers: readers.mlx },
  'ct-': { format: 'compressed-tensors', readers: readers.ct },
  'ct-mxfp4': { format: 'compressed-tensors', readers: [], refused: true },
  'ct-mxfp4a16': { format: 'compressed-tensors', readers: readers.ct },
  'ct-nvfp4': { format: 'compressed-tensors', readers: [], refused: true },
  'ct-nvfp4a16': { format: 'compressed-tensors', readers: readers.ct },
  'gptq-': { format: 'gptq', readers: readers.gptq },
  'gptq-4bit-channel': { format: 'gptq', readers: readers.gptqmodel },
  'awq-': { format: 'awq', readers: readers.awq },
  'fp8-': { format: 'fp8', readers: readers.plain },
  'fp8-gptqmodel': { format: 'fp8', readers: readers.gptqmodel },
}

/** undefined for a folder that peers.py did not make. */
export const peerOf = (name: string): Peer | undefined => {
  const prefixes = Object.keys(peers).filter(prefix => name.startsWith(prefix))
  return peers[prefixes.reduce((longest, prefix) => (prefix.length > longest.length ? prefix : longest), '')]
}
