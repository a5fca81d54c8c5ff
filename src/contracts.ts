/**
 * The values that pass between the steps (design: checkpoint → model → calibrate → quantize → format → checkpoint + report).
 * Letters in shapes: out, in = the two dimensions of a linear as checkpoints store it; T = tokens; G = groups along `in`.
 */
import type { Dtype } from './dtype/dtype.ts'

// ── checkpoint ───────────────────────────────────────────────────────────────────────────────────────────────────────

export interface TensorInfo {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /** Size of the stored data, in bytes. */
  readonly bytes: number
}

/** A tensor of a checkpoint on disk. No byte of it is read before `read`. */
export interface TensorSource extends TensorInfo {
  /** The file that holds it, as the user knows it. */
  readonly file: string
  /**
   * Bytes [start, end) of the tensor (default: all), into `into` when given (its length must be end − start; it may lie in shared memory).
   * @throws QuantizeError bad-input when the file ends early
   */
  read(start?: number, end?: number, into?: Uint8Array): Uint8Array
}

/** Named tensors, from one file or several shards. */
export interface Checkpoint {
  /** What the user named: a file or a folder. */
  readonly path: string
  /** The folder where config.json, tokenizer.json and the rest stand. */
  readonly folder: string
  /** The weight files read, basenames, in name order. */
  readonly files: readonly string[]
  /** In the order of (file name, offset). */
  readonly tensors: ReadonlyMap<string, TensorSource>
  /** `__metadata__` of the first file. */
  readonly metadata: Readonly<Record<string, string>>
  close(): void
}

// ── model ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** How a linear sees a stored tensor. Several views may share one tensor (a fused q,k,v; a tied embedding). */
export interface WeightView {
  readonly tensor: string
  /** Rows [start, end) of the stored tensor; default all. */
  readonly rows?: readonly [number, number]
  /** The tensor stores in × out (GPT-2's Conv1D). */
  readonly transpose?: boolean
}

export interface Linear {
  /** Module name, without `.weight`. */
  readonly name: string
  readonly weight: WeightView
  readonly bias?: WeightView
  readonly out: number
  readonly in: number
}

/** A value inside a block's graph; shape [T, features]. */
export type Value = string

export type ActivationKind = 'silu' | 'relu' | 'gelu' | 'gelu_tanh'

/** Rotary embedding: rotate-half convention; cos/sin tables come from `frequencies` (length headDim / 2, radians a position). */
export interface Rope {
  readonly frequencies: readonly number[]
  /** Multiplies cos and sin (1 for default, linear and llama3 scaling). */
  readonly attentionFactor: number
}

/** The op list: the one source for calibration, eval and exported graphs. Every value is [T, features]. */
export type Op =
  | {
      readonly op: 'norm'
      readonly kind: 'rms' | 'layer'
      readonly x: Value
      readonly y: Value
      readonly weight: WeightView
      readonly bias?: WeightView
      readonly eps: number
    }
  | { readonly op: 'linear'; readonly x: Value; readonly y: Value; readonly linear: string }
  /** Causal attention, grouped-query; `rope` is applied to q and k; `window`: a token sees itself and the window − 1 tokens before it. */
  | {
      readonly op: 'attention'
      readonly q: Value
      readonly k: Value
      readonly v: Value
      readonly y: Value
      readonly heads: number
      readonly kvHeads: number
      readonly headDim: number
      readonly scale: number
      readonly rope?: Rope
      readonly window?: number
    }
  | { readonly op: 'activation'; readonly kind: ActivationKind; readonly x: Value; readonly y: Value }
  | { readonly op: 'multiply' | 'add'; readonly a: Value; readonly b: Value; readonly y: Value }

/** Linears that read one value (their tap), and where that value comes from: how a change of it can be folded back. */
export interface Stage {
  readonly tap: Value
  /** Features of the tap = `in` of its linears. */
  readonly width: number
  readonly linears: readonly Linear[]
  /** The norm or linear whose output channels are the tap's channels, and through what a per-channel factor passes. */
  readonly from: { readonly name: string; readonly via: 'norm' | 'heads' | 'elementwise' | 'none' }
  /** What the linears must agree on, where a runtime fuses them. */
  readonly share?: 'scheme'
}

export interface Block {
  /** Module prefix, e.g. `model.layers.3`. */
  readonly name: string
  readonly ops: readonly Op[]
  readonly input: Value
  readonly output: Value
  /** In the order in which the graph computes their taps. */
  readonly stages: readonly Stage[]
}

export interface Model {
  /** The architecture file's name, e.g. `llama`. */
  readonly arch: string
  readonly hidden: number
  readonly vocabulary: number
  /** Longest sequence that the model takes. */
  readonly maxPositions: number
  readonly embedding: WeightView
  /** Learned positions: row `offset + position` of `table` is added to the embedding. */
  readonly positions?: { readonly table: WeightView; readonly offset: number }
  readonly blocks: readonly Block[]
  /** The ops after the last block (the final norm); input and output as in a block. */
  readonly final: { readonly ops: readonly Op[]; readonly input: Value; readonly output: Value }
  readonly head: Linear
  /** The head is the embedding, stored once. */
  readonly tied: boolean
  /** Notes for the report, e.g. config fields that this architecture does not know. */
  readonly notes: readonly string[]
}

// ── calibrate ────────────────────────────────────────────────────────────────────────────────────────────────────────

export type StatisticName = 'gram'

/** What a tap saw. */
export interface Statistics {
  /** Tokens seen. */
  readonly count: number
  /** Σ x xᵀ / count, [in, in], symmetric, full. */
  readonly gram: Float32Array
}

// ── quantize ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** How a format stores one linear: obeyed by `fit` before codes are chosen, and by `dequantize`. */
export interface Storage {
  /** Decoding form: W = (q − z) · s. */
  readonly decode: 'affine'
  readonly scaleDtype: 'F16' | 'BF16' | 'F32'
  /** Allowed integer zero points, [low, high], inclusive. */
  readonly zeroRange: readonly [number, number]
}

export type Bits = 2 | 3 | 4 | 8

/** Uniform integer grid: codes 0 … 2^bits − 1. Symmetric: zero point fixed at 2^(bits − 1). */
export interface Grid {
  readonly name: string
  readonly bits: Bits
  readonly symmetric: boolean
}

/** How the range of a group is chosen: the largest shrink factors tried on its min-max range. */
export type ClipName = 'minmax' | 'mse'

/** Columns that share one scale: n columns of a row, a whole row (channel), or the whole tensor. */
export type Group = number | 'channel' | 'tensor'

/** Order of the columns in an error-feedback sweep, and which columns form a group (docs/methods.md). */
export type ActOrder = 'none' | 'static' | 'g_idx'

/** Codes and parameters of one linear. `dequantize` (quantize/dequantize.ts) is the one definition of what they mean. */
export interface QuantizedLinear {
  readonly decode: 'affine'
  readonly out: number
  readonly in: number
  readonly bits: Bits
  /** [out, in] row-major, natural column order. */
  readonly codes: Uint8Array
  /** [out, G]; each value is exact in the storage's scale dtype. */
  readonly scales: Float32Array
  /** [out, G]. */
  readonly zeros: Uint8Array
  /** [in]: the group of each input column. */
  readonly groupOf: Int32Array
}

// ── format ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** What a format needs to know about one linear before any work. */
export interface LinearScheme {
  readonly name: string
  readonly out: number
  readonly in: number
  readonly bits: Bits
  readonly symmetric: boolean
  readonly group: Group
  /** Groups along `in`. */
  readonly groups: number
  readonly actOrder: ActOrder
}

export interface StoredTensor extends TensorInfo {
  readonly data: Uint8Array
}

/** A read-only look at stored tensors by name, for `unpack`. */
export type TensorLookup = (name: string) => TensorSource | undefined

/** What goes into the output's config files beside the tensors. */
export interface AssembleFacts {
  readonly linears: readonly LinearScheme[]
  /** Modules of the model's blocks that stay unquantized, e.g. under --unfit keep. */
  readonly kept: readonly string[]
  readonly method: string
  /** Default scheme of the run. */
  readonly bits: Bits
  readonly symmetric: boolean
  readonly group: Group
  readonly actOrder: ActOrder
  readonly damp: number
  readonly clip: ClipName
  readonly version: string
}

export interface Format {
  readonly name: string
  storage(scheme: LinearScheme): Storage
  /** One sentence on why this linear cannot be stored, with what would work; undefined when it can. */
  refuses(scheme: LinearScheme): string | undefined
  /** Warnings about which runtimes load it. */
  warnings(scheme: LinearScheme): readonly string[]
  /** Names, dtypes and shapes that `pack` will give, without data. */
  layout(scheme: LinearScheme): readonly TensorInfo[]
  pack(name: string, linear: QuantizedLinear): readonly StoredTensor[]
  /** The inverse of `pack`: dequantize(unpack(pack(q))) equals dequantize(q) bit for bit. */
  unpack(name: string, tensors: TensorLookup, config: unknown): QuantizedLinear
  /** Linears stored in this format among the tensors, module names with their scheme, given the checkpoint's config.json. */
  detect(tensors: ReadonlyMap<string, TensorInfo>, config: unknown): ReadonlyMap<string, LinearScheme> | undefined
  /** Config files by name (config.json is the source's, amended); text as it is written. */
  assemble(
    sourceConfig: Readonly<Record<string, unknown>> | undefined,
    facts: AssembleFacts,
  ): ReadonlyMap<string, string>
}
