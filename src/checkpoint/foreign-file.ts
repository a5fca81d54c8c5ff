/** What people give in place of a safetensors file, with the way out, by name and by first bytes. */

const pickle =
  'is a pickle, which can run code when it is opened, so it is not read; save the weights as safetensors, ' +
  "e.g. Python: safetensors.torch.save_file(torch.load('x.bin', weights_only=True), 'model.safetensors')"

const gguf = 'is GGUF; its name must end in .gguf'

const byExtension: Readonly<Record<string, string>> = {
  '.bin': pickle,
  '.ckpt': pickle,
  '.pickle': pickle,
  '.pkl': pickle,
  '.pt': pickle,
  '.pth': pickle,
}

/** Why a file with this extension (lower case, with the dot) is not read, or undefined. */
export const explainExtension = (extension: string): string | undefined =>
  Object.hasOwn(byExtension, extension) ? byExtension[extension] : undefined

const byMagic: readonly (readonly [magic: string, explanation: string])[] = [
  ['GGUF', gguf],
  ['PK\x03\x04', pickle], // torch.save's zip
  ['version ', 'is a Git LFS pointer, not the weights; run `git lfs pull` in its folder'],
  ['<!', 'is a web page, not the weights; download the file itself'],
  ['<html', 'is a web page, not the weights; download the file itself'],
]

/**
 * Why a file that begins with these 8 bytes is no safetensors file, where that can be told; else undefined.
 * To ask only once they are no possible header length: a magic of few bytes may be one.
 */
export const explainForeign = (head: Uint8Array): string | undefined => {
  const text = String.fromCharCode(...head)
  return byMagic.find(([magic]) => text.startsWith(magic))?.[1]
}
