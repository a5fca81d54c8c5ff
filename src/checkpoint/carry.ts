import type { Files } from '../io/files.ts'

/** Never copied: weights in any form, their indexes, and what the run writes anew (formats: the Hugging Face folder). */
const notCarried = [
  /\.(safetensors|bin|pt|pth|ckpt|gguf|onnx|onnx_data|msgpack|h5|npz)$/i,
  /\.(safetensors|bin)\.index\.json$/i,
  /^(config|quantize_config|quant_config|quantize-report|hf_quant_config)\.json$/,
  /^consolidated/,
  /^\./,
]

/** Files of the source folder that go along unchanged: tokenizer, templates, generation config, licence, and whatever else stands there. */
export const carriedFiles = (folder: string, files: Files): string[] =>
  files
    .list(folder)
    .filter(name => !notCarried.some(pattern => pattern.test(name)))
    .filter(name => files.stat(`${folder}/${name}`)?.kind === 'file')
    .sort()
