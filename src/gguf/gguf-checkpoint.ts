/** A GGUF file as a checkpoint: tensors under transformers' names and in its order of rows; config and tokenizer as the files that they stand for. */
import { dirname } from 'node:path'
import type { Checkpoint, TensorSource } from '../contracts.ts'
import { toFloat32 } from '../dtype/convert.ts'
import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { printable } from '../io/printable.ts'
import { configOf, type GgufConfig } from './model-config.ts'
import { type Heads, ropeFactorsName, toHfName } from './names.ts'
import { type GgufFile, openGguf } from './open-gguf.ts'
import { storedRows } from './permute.ts'
import { type HfTokenizerFiles, hfTokenizerOf } from './tokenizer/from-gguf.ts'
import type { GgufMetadata } from './values.ts'

export interface GgufCheckpoint extends Checkpoint {
  readonly gguf: GgufFile
  /** undefined for a model that is not read here: its tensors keep their names. */
  readonly heads: Heads | undefined
  /** The values of `rope_freqs.weight`. */
  readonly ropeFactors: Float32Array | undefined
}

export const isGguf = (checkpoint: Checkpoint): checkpoint is GgufCheckpoint => 'gguf' in checkpoint

const maxFactorBytes = 4 * 2 ** 16 // one a pair of a head's channels

/** @throws QuantizeError bad-input for a tensor of another type or of absurd size */
const ropeFactorsOf = ({ tensors }: GgufFile): Float32Array | undefined => {
  const tensor = tensors.get(ropeFactorsName)
  if (!tensor) return undefined
  if (tensor.type === 'F32' && tensor.bytes <= maxFactorBytes) return toFloat32(tensor.read(), 'F32')
  throw new QuantizeError(
    'bad-input',
    `${printable(tensor.file)}: tensor "${ropeFactorsName}" is ${tensor.type} [${tensor.shape}], expected F32 of one factor a pair of channels`,
  )
}

const once = <T>(make: () => T): (() => T) => {
  let made: { readonly value: T } | undefined
  return () => {
    made ??= { value: make() }
    return made.value
  }
}

const indented = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`

/** What transformers would have beside the weights. */
const embeddedFiles = (
  metadata: GgufMetadata,
  config: () => unknown,
  tokenizer: () => HfTokenizerFiles,
): ReadonlyMap<string, () => string> => {
  const found: [string, () => string][] = [['config.json', () => indented(config())]]
  if (metadata.has('tokenizer.ggml.model')) {
    found.push(['tokenizer.json', () => JSON.stringify(tokenizer().tokenizer)])
    found.push(['tokenizer_config.json', () => indented(tokenizer().config)])
  }
  if (metadata.has('tokenizer.chat_template')) found.push(['chat_template.jinja', () => tokenizer().chatTemplate ?? ''])
  return new Map(found)
}

/** The heads of a model that we can compute; undefined for another: then tensors keep their names. @throws QuantizeError bad-input */
const headsOf = (config: () => GgufConfig): Heads | undefined => {
  try {
    const { num_attention_heads, num_key_value_heads } = config()
    return { heads: num_attention_heads, kvHeads: num_key_value_heads }
  } catch (error) {
    if (error instanceof QuantizeError && error.code === 'unsupported') return undefined
    throw error
  }
}

/** Under transformers' names, with rows in its order. */
const hfTensors = ({ tensors }: GgufFile, heads: Heads): Map<string, TensorSource> => {
  const found = new Map<string, TensorSource>()
  for (const { name, file, shape, as } of tensors.values()) {
    if (name === ropeFactorsName) continue // config.json says them
    const where = `${printable(file)}: tensor "${printable(name)}"`
    const hfName = toHfName(name)
    if (hfName === undefined)
      throw new QuantizeError('unsupported', `${where} is none that the llama architecture has here`)
    found.set(hfName, as(hfName, storedRows(name, shape, heads, where)))
  }
  return found
}

/**
 * Opens a GGUF file, or the first part of a split one. Of an architecture that is not read here, tensors keep their names, and asking
 * for config.json says so.
 * @throws QuantizeError as openGguf and configOf
 */
export const openGgufCheckpoint = (path: string, given: string, files: Files): GgufCheckpoint => {
  const gguf = openGguf(path, files)
  try {
    const { metadata, tensors } = gguf
    const ropeFactors = ropeFactorsOf(gguf)
    const config = once(() => configOf({ file: path, metadata, tensors, ropeFactors }))
    const tokenizer = once(() => hfTokenizerOf(metadata, path))
    const heads = headsOf(config)
    return {
      path: given,
      folder: dirname(path),
      files: gguf.files,
      tensors: heads ? hfTensors(gguf, heads) : new Map([...tensors.values()].map(({ name, as }) => [name, as(name)])),
      metadata: shownMetadata(metadata),
      embedded: embeddedFiles(metadata, config, tokenizer),
      gguf,
      heads,
      ropeFactors,
      close: gguf.close,
    }
  } catch (error) {
    gguf.close()
    throw error
  }
}

const longestShown = 200

/** For people: arrays by their length, long texts by their beginning. */
const shownMetadata = (metadata: GgufMetadata): Record<string, string> =>
  Object.fromEntries(
    [...metadata].map(([key, value]) => {
      if (value.type === 'array') return [key, `${value.length} × ${value.of}`]
      const text = String(value.value)
      return [key, text.length > longestShown ? `${text.slice(0, longestShown)}…` : text]
    }),
  )

/** The GGUF file of a folder that holds no other weights; undefined when there is none. @throws QuantizeError bad-input for several */
export const findGguf = (folder: string, names: readonly string[]): string | undefined => {
  const found = names.filter(name => /\.gguf$/i.test(name) && !/-\d{5}-of-\d{5}\.gguf$/.test(name))
  const first = names.filter(name => /-00001-of-\d{5}\.gguf$/.test(name))
  const all = [...found, ...first]
  if (all.length > 1)
    throw new QuantizeError(
      'bad-input',
      `${printable(folder)}: holds ${all.length} GGUF models; name one: ${printable(all.join(', '))}`,
    )
  return all[0]
}
