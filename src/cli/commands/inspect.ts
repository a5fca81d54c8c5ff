import { hashesOfWeights, openStatisticsOf } from '../../calibrate/statistics-file.ts'
import { openCheckpoint } from '../../checkpoint/open-checkpoint.ts'
import { loadModel } from '../../evaluate/load-model.ts'
import { type Inspection, inspectCheckpoint } from '../../inspect.ts'
import { nodeFiles } from '../../io/files.ts'
import { printable } from '../../io/printable.ts'
import { type ModelProfile, type Profile, profileModel } from '../../profile.ts'
import type { InspectOptions } from '../parse.ts'
import type { Ui } from '../ui.ts'

export const inspect = async ({ model, stats, json }: InspectOptions, ui: Ui): Promise<void> => {
  if (stats !== undefined) {
    const profile = readProfile(model, stats)
    if (json) ui.json(profile)
    else ui.data(profileText(profile))
    return
  }
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

/** @throws QuantizeError bad-input when the statistics are of another model */
const readProfile = (path: string, stats: string): ModelProfile => {
  const { checkpoint, plain } = loadModel(path, nodeFiles)
  try {
    const file = openStatisticsOf(stats, plain, hashesOfWeights(checkpoint, nodeFiles), nodeFiles)
    try {
      return profileModel(checkpoint, plain, file)
    } finally {
      file.close()
    }
  } finally {
    checkpoint.close()
  }
}

const bars = '▁▂▃▄▅▆▇█'

/** Each share as a bar; its square root, so that rare values are seen. */
const sparkline = (shares: readonly number[]): string =>
  shares.map(share => (share === 0 ? ' ' : bars[Math.min(7, Math.floor(Math.sqrt(share) * 8))])).join('')

const figure = (value: number): string => value.toPrecision(3)

const rows = (profiles: readonly Profile[]): string[] => {
  const widest = Math.max(...profiles.map(({ name }) => printable(name).length))
  const head = ['min', 'max', 'rms', 'max/rms', 'kurtosis', 'outliers', '>= 6']
  return [
    `${''.padEnd(widest)}  ${head.map(title => title.padStart(9)).join(' ')}  |x| / rms: 1/16 … 16, above`,
    ...profiles.map(({ name, min, max, rms, peak, kurtosis, outlierChannels, channelsAbove6, histogram }) => {
      const counts = [String(outlierChannels), channelsAbove6 === null ? '-' : String(channelsAbove6)]
      const cells = [...[min, max, rms, peak, kurtosis].map(figure), ...counts]
      return `${printable(name).padEnd(widest)}  ${cells.map(cell => cell.padStart(9)).join(' ')}  ${sparkline(histogram)}`
    }),
  ]
}

const profileText = ({ taps, weights }: ModelProfile): string =>
  [
    'inputs of linears (each shared by those of its stage; outliers: channels of more than 8 times the median rms):',
    ...rows(taps),
    '',
    'weights (outliers: columns of more than 8 times the median rms):',
    ...rows(weights),
  ].join('\n')
