/**
 * The values that pass between the steps (design: checkpoint → model → calibrate → quantize → format → checkpoint + report).
 * Letters in shapes: out, in = the two dimensions of a linear as checkpoints store it; T = tokens; G = groups along `in`.
 */
import type { Dtype, WeightDtype } from './dtype/dtype.ts'
import type { GgmlTypeName } from './gguf/types.ts'

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
  /** Text files that the weights' own file holds, by the names that they would have beside it: then those of the folder do not count. Made when asked for. */
  readonly embedded?: ReadonlyMap<string, () => string>
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
  /** How its runtime quantizes what it reads; absent: not. */
  readonly activations?: ActivationScheme
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

/** What can be known of a tap beside its Gram matrix. */
export type StatisticName = 'channels' | 'histogram'

/** Of each channel of a tap, [in], over all tokens. */
export interface ChannelStatistics {
  readonly mean: Float32Array
  /** Mean of |x|. */
  readonly absMean: Float32Array
  readonly low: Float32Array
  readonly high: Float32Array
}

/** What a tap saw. */
export interface Statistics {
  /** Tokens seen. */
  readonly count: number
  /** Σ x xᵀ / count, [in, in], symmetric, full. */
  readonly gram: Float32Array
  readonly channels?: ChannelStatistics
  /** [4096]: how many values have each 12 leading bits (sign, exponent, 3 of the mantissa) of float32 (calibrate/channels.ts). */
  readonly histogram?: Float64Array
  /** Σ (x′ − x) xᵀ / count, [in, in], x′ what the tap sees in the unquantized model; where it was asked for. */
  readonly drift?: Float32Array
}

// ── quantize ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * How a scale is stored. E8M0: a power of two; E4M3: FP8, alone or under one float32 for the tensor (`Storage.second`); F24: a float32 whose
 * 8 lowest bits are 0, so that it times 127 is one as well (LLM.int8() stores that).
 */
export type ScaleDtype = WeightDtype | 'E8M0' | 'E4M3' | 'F24'

/**
 * How codes and parameters become weights. Each operation is rounded to float32; scales [out, G] are the ones in effect, with any second
 * level multiplied in.
 *   affine   W = (q − z) · s, z integer or real
 *   biased   W = q · s + b
 *   levels   W = level[q] · s
 */
export type Decode = 'affine' | 'biased' | 'levels'

/** How a format stores one linear: obeyed by `fit` before codes are chosen, and by `dequantize`. */
export interface Storage {
  readonly decode: Decode
  readonly scaleDtype: ScaleDtype
  /** Allowed integer zero points, [low, high], inclusive. Of `affine` only. */
  readonly zeroRange?: readonly [number, number]
  /** Zero points are stored as numbers of this dtype: real ones, from elsewhere, can be kept. Of `affine` only. */
  readonly zeroDtype?: WeightDtype
  /** Dtype of biases. Of `biased` only. */
  readonly biasDtype?: WeightDtype
  /**
   * What scales stand under, decided from all of a tensor's scales before codes are chosen:
   *   global   one float32 divides them: effective = stored / global (NVFP4: stored as E4M3, largest 448)
   *   nested   quantized to 8 bits themselves, in blocks of 256 (bitsandbytes' double quantization)
   *   super    whole multiples of a float of a super-block of 256 weights (ggml's k-quants)
   */
  readonly second?: 'global' | 'nested' | 'super'
}

export type Bits = 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8

/** Names of grids: the values that a code can stand for, before scaling. `int`: all integers of its bits. */
export type GridName = 'int' | 'fp8' | 'fp8-e5m2' | 'fp4' | 'nf4' | 'bnb-fp4' | 'nvfp4' | 'mxfp4' | 'mxfp8' | 'iq4'

/** Uniform integer grid: codes 0 … 2^bits − 1. Symmetric: zero point fixed at 2^(bits − 1). */
export interface UniformGrid {
  readonly kind: 'uniform'
  readonly name: 'int'
  readonly bits: Bits
  readonly symmetric: boolean
}

/** A table of at most 256 values, each with the code that stands for it. */
export interface LevelGrid {
  readonly kind: 'levels'
  readonly name: Exclude<GridName, 'int'>
  readonly bits: Bits
  /** Ascending, without doubles. */
  readonly values: Float32Array
  /** The code of each value. */
  readonly codes: Uint8Array
  /** [values − 1]: a weight belongs above border i when it is > borders[i]. Where the tie goes is in the border. */
  readonly borders: Float32Array
  /** [2^bits]: the value of each code; NaN for codes that are not used. */
  readonly levels: Float32Array
  /** The value to which the largest magnitude of a group is scaled. */
  readonly reach: number
}

export type Grid = UniformGrid | LevelGrid

/** How the range of a group is chosen: as it is; shrunk by what its weights lose least by; or by what its outputs lose least by. */
export type ClipName = 'minmax' | 'mse' | 'awq'

/** Inputs of linears that a runtime is told to quantize. */
export interface DeclaredInputs {
  readonly grid: 'int8' | 'fp8'
  readonly symmetric: boolean
  /** Where scales are dynamic, what shares one: a token's features, or n of them. */
  readonly granularity: 'token' | number
}

/** Where scales of quantized inputs come from: each token as it comes; or stored, from what the tap saw (quantize/static-scale.ts). */
export type ActivationObserver = 'dynamic' | StaticObserver
export type StaticObserver = 'minmax' | 'mse' | 'percentile'

/** A change of the model's weights that leaves its function as it is (src/transform). */
export type TransformName = 'none' | 'awq' | 'smoothquant'

/** Weights that share one scale: n columns of a row, a whole row (channel), the whole tensor, or squares of 128 × 128 (block). */
export type Group = number | 'channel' | 'tensor' | 'block'

/** Order of the columns in an error-feedback sweep, and which columns form a group (docs/methods.md). */
export type ActOrder = 'none' | 'static' | 'g_idx'

/** What is done with codes and scales after error feedback: nothing, or coordinate descent on both. */
export type Refinement = 'none' | 'cd'

/** bitsandbytes' double quantization of scales: s = map[code] · absmax[block] + offset, blocks of 256 scales in row-major order. */
export interface NestedScales {
  readonly codes: Uint8Array
  readonly absmax: Float32Array
  readonly offset: number
}

/** ggml's super-blocks: scales and minima of sub-blocks are whole multiples of two floats of a super-block (gguf/blocks.ts). */
export interface SuperBlocks {
  readonly d: Float32Array
  readonly dmin: Float32Array
  readonly scaleCodes: Uint8Array | Int8Array
  readonly minCodes: Uint8Array
}

/**
 * Codes and parameters of one linear. `dequantize` (dequantize.ts) is the one definition of what they mean. Formats that run
 * their blocks over the flattened weight may give it as the matrix [out · in / block, block], one group a row: the values have the same order.
 */
export interface CodedLinear {
  readonly decode: Decode
  readonly out: number
  readonly in: number
  readonly bits: Bits
  /** [out, in] row-major, natural column order. */
  readonly codes: Uint8Array
  /** [out, G], in effect. Each is exact in the storage's scale dtype where there is no second level. */
  readonly scales: Float32Array
  /** [out, G] of `affine`; empty otherwise. */
  readonly zeros: Float32Array
  /** [out, G] of `biased`; empty otherwise. */
  readonly biases: Float32Array
  /** [2^bits] of `levels`; empty otherwise. */
  readonly levels: Float32Array
  /** [in]: the group of each input column. */
  readonly groupOf: Int32Array
  /** What divides the stored scales to give those in effect (NVFP4). */
  readonly globalScale?: number
  readonly nested?: NestedScales
  readonly superBlocks?: SuperBlocks
}

/** Weights as they are, in a format without codes. */
export interface DenseLinear {
  readonly decode: 'dense'
  readonly out: number
  readonly in: number
  /** [out, in], as stored. */
  readonly values: Float32Array
}

/** Weights in ggml's blocks, which are stored as they are (gguf/coded.ts says what they mean). */
export interface BlockLinear {
  readonly decode: 'blocks'
  readonly out: number
  readonly in: number
  readonly type: GgmlTypeName
  /** [out, in / block] blocks. */
  readonly blocks: Uint8Array
}

export type QuantizedLinear = CodedLinear | DenseLinear | BlockLinear

// ── format ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** How a runtime quantizes what a linear reads. */
export interface ActivationScheme {
  readonly grid: 'int4' | 'int8' | 'fp8' | 'nvfp4' | 'mxfp4' | 'mxfp8'
  readonly symmetric: boolean
  /** What shares a scale: a token's features, n of them, or all of a sequence. */
  readonly granularity: 'token' | 'tensor' | number
  /** Scales from the values as they come, or stored. */
  readonly dynamic: boolean
  /** Stored scale and zero point of a static scheme, granularity `tensor`. */
  readonly scale?: number
  readonly zero?: number
  /** NVFP4: the stored number that divides the scales of groups; absent: from each sequence as it comes. */
  readonly globalScale?: number
  /** What the largest magnitude of integers becomes; default 127.5, half of their range. */
  readonly reach?: 127
  /** LLM.int8(): features that reach this magnitude in any token of a sequence stay unquantized. */
  readonly outliers?: number
}

/** What a format needs to know about one linear before any work. */
export interface LinearScheme {
  /** Module name. */
  readonly name: string
  /** A linear of a block, the head, or the embedding (a table that is looked up, and the head as well where they are tied). */
  readonly role: 'linear' | 'head' | 'embedding'
  readonly out: number
  readonly in: number
  /** Of the model: its own, or what --dtype makes it. Some formats keep scales in it. */
  readonly dtype: WeightDtype
  readonly grid: GridName
  readonly bits: Bits
  readonly symmetric: boolean
  readonly group: Group
  /** Groups along `in`. */
  readonly groups: number
  readonly actOrder: ActOrder
  readonly activations?: ActivationScheme
  /** Of a format with types of its own (Format.choose). */
  readonly type?: GgmlTypeName
  /** Of a conversion into a format of any storage: biases are stored, where others have zero points. */
  readonly biased?: boolean
}

export interface StoredTensor extends TensorInfo {
  readonly data: Uint8Array
}

/** A read-only look at stored tensors by name, for `unpack`. */
export type TensorLookup = (name: string) => TensorSource | undefined

/** The parsed JSON files beside the weights that formats read, by file name. */
export type Configs = Readonly<Record<string, unknown>>

/** What goes into the output's config files beside the tensors. */
export interface AssembleFacts {
  readonly linears: readonly LinearScheme[]
  /** Modules of the model's blocks that stay unquantized, e.g. under --unfit keep. */
  readonly kept: readonly string[]
  /** Tensors of the output that belong to no quantized linear. */
  readonly rest: readonly TensorInfo[]
  /** undefined: quantized by tensor shape. */
  readonly model?: Model
  /** The head has a weight of its own in the output, where the source shares the embedding's. */
  readonly untied: boolean
  readonly method: string
  /** Default scheme of the run. */
  readonly grid: GridName
  readonly bits: Bits
  readonly symmetric: boolean
  readonly group: Group
  readonly actOrder: ActOrder
  readonly damp: number
  readonly clip: ClipName
  readonly version: string
  /** Largest file of tensors that was asked for, in bytes of tensor data. */
  readonly shardBytes?: number
}

/** What `quantize formats` prints, and what a format chooses where the user does not. */
export interface FormatFacts {
  readonly summary: string
  readonly grids: readonly GridName[]
  readonly bits: readonly Bits[]
  /** In words: which groups it can hold. */
  readonly groups: string
  /** Who loads it, with versions. */
  readonly loaders: string
  /** Preferred over the method's preset. */
  readonly defaults?: {
    readonly grid?: GridName
    readonly bits?: Bits
    readonly symmetric?: boolean
    readonly group?: Group
    /** Its own tool quantizes embedding and head as well. */
    readonly embedding?: boolean
    /** Of methods with error feedback. */
    readonly correct?: number
    readonly refine?: Refinement
  }
  /** The one group that a linear of these inputs can have, where the format derives it instead of storing it. */
  readonly impliedGroup?: (inputs: number, bits: Bits, grid: GridName) => Group
  /** Which of head and embedding it can hold quantized. */
  readonly head: boolean
  readonly embedding: boolean
  /** All linears must have one scheme: its config has no place for others. */
  readonly uniform?: boolean
  /** It stores values instead of codes. */
  readonly dense?: boolean
  /** The dtype of those values, where it has one. */
  readonly valueDtype?: WeightDtype
  /** It stores every coded linear as it is, whatever `storage` would choose for a new one. */
  readonly anyStorage?: boolean
  /** It can declare how a runtime quantizes activations. */
  readonly activations?: boolean
  /** Its runtimes fuse linears that read one value (`Stage.share`): they must have one scheme. */
  readonly fuses?: boolean
  /** Files that hold the tensors; default safetensors. */
  readonly container?: 'safetensors' | 'onnx' | 'gguf'
  /** Of GGUF: which types it chooses, and what the file says that it is (general.file_type). */
  readonly mix?: { readonly name: string; readonly fileType: number }
  /** Dtypes that tensors which stay unquantized may have; default: any. The first is the one that others are converted to. */
  readonly restDtypes?: readonly WeightDtype[]
  /** The dtype that such a tensor must have, where its shape decides it, whatever --dtype says. */
  readonly restDtype?: (tensor: TensorInfo) => WeightDtype | undefined
  /** Why it has no place for a tensor that stays unquantized; undefined: it has. `derived`: it is left out, since loaders make it themselves. */
  readonly refusesRest?: (tensor: TensorInfo) => 'derived' | string | undefined
}

/** A weight that waits for its type. */
export interface UntypedWeight extends Pick<LinearScheme, 'name' | 'role' | 'out' | 'in'> {
  /** By --override or --head-bits, instead of the format's own choice. */
  readonly asked?: GgmlTypeName
}

/** A type, and the scheme that it is. */
export interface TypedScheme extends Pick<LinearScheme, 'grid' | 'bits' | 'symmetric' | 'group'> {
  readonly type: GgmlTypeName
  /** The type that was wanted, whose blocks do not divide the inputs. */
  readonly instead?: GgmlTypeName
}

export interface Format {
  readonly name: string
  readonly facts: FormatFacts
  storage(scheme: LinearScheme): Storage
  /**
   * Of a format whose weights have types of their own: that of each weight, by name. Bits, groups and grids are then no choices of the user.
   * @param withImportances the activations' squares are known, by which columns are weighed
   * @throws QuantizeError unsupported for a model that it cannot say
   */
  choose?(
    weights: readonly UntypedWeight[],
    model: Model | undefined,
    withImportances: boolean,
  ): ReadonlyMap<string, TypedScheme>
  /** One sentence on why this linear cannot be stored, with what would work; undefined when it can. */
  refuses(scheme: LinearScheme): string | undefined
  /** How its runtime quantizes what a linear reads, though no checkpoint says so; undefined: not. */
  computesWith?(scheme: LinearScheme): ActivationScheme
  /** Warnings about which runtimes load it. */
  warnings(scheme: LinearScheme): readonly string[]
  /** Names, dtypes and shapes that `pack` will give, without data. */
  layout(scheme: LinearScheme): readonly TensorInfo[]
  pack(scheme: LinearScheme, linear: CodedLinear): readonly StoredTensor[]
  /** The inverse of `pack`: dequantize(unpack(pack(q))) equals dequantize(q) bit for bit (of a format without codes: rounded to its dtype). */
  unpack(name: string, tensors: TensorLookup, configs: Configs): QuantizedLinear
  /**
   * Linears stored in this format among the tensors, module names with their scheme; undefined when the configs declare another format or none.
   * Headers say it, and the few bytes of tensors that hold a shape or a state; no weight is read.
   */
  detect(tensors: ReadonlyMap<string, TensorSource>, configs: Configs): ReadonlyMap<string, LinearScheme> | undefined
  /** Config files by name (config.json is the source's, amended), as they are written. */
  assemble(
    sourceConfig: Readonly<Record<string, unknown>> | undefined,
    facts: AssembleFacts,
  ): ReadonlyMap<string, string | Uint8Array>
}
