import { availableParallelism } from 'node:os'
import { createKernels } from '../../engine/kernel/pool.ts'
import { nodeFiles } from '../../io/files.ts'
import { printable } from '../../io/printable.ts'
import { type Verification, verify } from '../../verify.ts'
import type { VerifyOptions } from '../parse.ts'
import type { Ui } from '../ui.ts'

export const verifyOutput = async ({ model, source, threads, json }: VerifyOptions, ui: Ui): Promise<void> => {
  const kernels = () => createKernels(threads ?? availableParallelism())
  const verification = await verify(model, source, kernels, nodeFiles, () => ui.signal.throwIfAborted())
  for (const name of verification.unlisted) ui.warn(`${printable(name)} is not in the report`)
  if (json) ui.json({ model, source: source ?? null, ...verification })
  else ui.data(verificationText(model, verification))
}

const verificationText = (model: string, { files, linears, kept, corrected }: Verification): string =>
  [
    `${model}: ${files} files are as the report says`,
    ...(linears === null
      ? []
      : [`${linears} linears have the errors of the report, ${kept} tensors are what the source gives, bit for bit`]),
    ...(corrected ? [`${corrected} biases are the source's with the shifts of the report, bit for bit`] : []),
  ].join('\n')
