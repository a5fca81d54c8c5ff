import type { Files } from '../io/files.ts'
import { outsideOf } from '../io/member.ts'

/** Hidden, or written anew from what was read: no news to anybody. */
const silent = /^\.|^(config|quantize_config|quantize-report)\.json$|\.safetensors\.index\.json$/

/** Not copied: weights in any form, their indexes, and records of another quantization (formats: the Hugging Face folder). */
const notCarried = [
  /\.(safetensors|bin|pt|pth|ckpt|gguf|onnx|onnx_data|msgpack|h5|npz)$/i,
  /\.(safetensors|bin)\.index\.json$/i,
  /^(quant_config|quantize-report|hf_quant_config|quanto_qmap|genai_config)\.json$/,
  /^consolidated/,
]

export interface FolderFiles {
  /** They go along unchanged: tokenizer, templates, generation config, licence, and whatever else stands there. */
  readonly carried: readonly string[]
  /** They do not: weights that were not read, records of another quantization, folders (`name/`), links out of the folder. Hidden ones are not listed. */
  readonly left: readonly string[]
}

/** What stands beside a model's weights. @param weights the files that hold them */
export const folderFiles = (folder: string, weights: readonly string[], files: Files): FolderFiles => {
  const carried: string[] = []
  const left: string[] = []
  const read = new Set(weights)
  for (const name of files.list(folder)) {
    if (silent.test(name) || read.has(name)) continue
    const kind = files.stat(`${folder}/${name}`)?.kind
    const carry = kind === 'file' && !notCarried.some(pattern => pattern.test(name))
    // what a link shows may be a file of this machine, which must not go out with the model
    if (carry && outsideOf(files, folder, name) === undefined) carried.push(name)
    else left.push(kind === 'folder' ? `${name}/` : name)
  }
  return { carried, left }
}
