import { basename } from 'node:path'
import type { Checkpoint } from '../contracts.ts'
import type { Files } from '../io/files.ts'

/** What people put behind a name to say how it is quantized. */
const mixSuffix = /[-.](f16|f32|bf16|q\d\w*|iq\d\w*|tq\d\w*|mxfp4)$/i

/** The model's name: its folder's, unless the file has a name of its own; of a GGUF file without its mix. */
export const modelName = ({ path, folder, files: [first] }: Checkpoint, files: Files): string => {
  const [, gguf] = /^(.+?)(-\d+-of-\d+)?\.gguf$/i.exec(first ?? '') ?? []
  if (gguf !== undefined) return gguf.replace(mixSuffix, '')
  const [, own] = /^(.+)\.safetensors$/.exec(basename(path)) ?? []
  return own === undefined || /^model(-\d+-of-\d+)?$/.test(own) ? basename(files.realPath(folder)) : own
}
