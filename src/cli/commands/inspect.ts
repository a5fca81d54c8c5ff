import { openCheckpoint } from '../../checkpoint/open-checkpoint.ts'
import { type Inspection, inspectCheckpoint } from '../../inspect.ts'
import { nodeFiles } from '../../io/files.ts'
import { printable } from '../../io/printable.ts'
import type { InspectOptions } from '../parse.ts'
import type { Ui } from '../ui.ts'

export const inspect = async ({ model, json }: InspectOptions, ui: Ui): Promise<void> => {
  const checkpoint = openCheckpoint(model, nodeFiles)
  try {
    const inspection = inspectCheckpoint(checkpoint, nodeFiles)
    if (json) ui.json(inspection)
    else ui.data(inspectionText(inspection))
  } finally {
    checkpoint.close()
  }
}

const inspectionText = ({ path, files, modelType, tensors, bytes, dtypes, quantization }: Inspection): string => {
  const widest = tensors.reduce((width, { name }) => Math.max(width, printable(name).length), 0)
  return [
    `${path}: ${files.length} file${files.length === 1 ? '' : 's'}, ${tensors.length} tensors, ${bytes} bytes of data`,
    `architecture: ${modelType === null ? 'unknown (no config.json)' : printable(modelType)}`,
    ...Object.entries(dtypes).map(
      ([dtype, { tensors: count, bytes: size }]) => `${dtype}: ${count} tensors, ${size} bytes`,
    ),
    quantization?.linears === 0
      ? `declares ${quantization.format}, but no linear is quantized`
      : quantization
        ? `quantized: ${quantization.format}, ${quantization.linears} linears of ${quantization.weights} weights at ${quantization.bitsPerWeight.toFixed(3)} bits a weight`
        : 'not quantized in a format known here',
    ...(quantization?.schemes ?? []).map(
      ({ grid, bits, symmetric, group, linears }) =>
        `  ${linears} linears: ${bits} bits, ${grid === 'int' ? (symmetric ? 'symmetric' : 'asymmetric') : grid}, group ${group}`,
    ),
    '',
    ...tensors.map(
      ({ name, dtype, shape }) => `${printable(name).padEnd(widest)}  ${dtype.padEnd(4)}  [${shape.join(', ')}]`,
    ),
  ].join('\n')
}
