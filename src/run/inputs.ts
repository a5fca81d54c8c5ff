/** Everything that the bytes of an output depend on, so that a run is resumed only with what it was begun with. */
import { join } from 'node:path'
import { z } from 'zod'
import type { CalibrationSample } from '../calibrate/sample.ts'
import type { Checkpoint } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import type { FileStat, Files } from '../io/files.ts'
import { processorName } from '../io/machine.ts'
import { printable } from '../io/printable.ts'
import { hashFile } from '../io/whole-file.ts'
import type { Plan } from '../plan.ts'
import { version } from '../version.ts'

const sha256 = z.string().regex(/^[0-9a-f]{64}$/)
const fileSchema = z.strictObject({ bytes: z.int().nonnegative(), sha256, stamp: z.string() })

export const inputsSchema = z.strictObject({
  version: z.string(),
  /** What computed the activations; null where none are needed. */
  device: z.string().nullable(),
  recipe: z.record(z.string(), z.json()),
  /** SHA-256 of the calibration text. */
  text: sha256.nullable(),
  /** Of the importance matrix. */
  imatrix: sha256.nullable(),
  /** Of the file of statistics. */
  stats: sha256.nullable(),
  /** Weights, config.json and, with calibration, tokenizer.json, by base name. */
  model: z.record(z.string(), fileSchema),
})

export type Inputs = z.infer<typeof inputsSchema>
type InputFile = z.infer<typeof fileSchema>

const statOf = (path: string, files: Files): FileStat => {
  const stat = files.stat(path)
  if (stat?.kind !== 'file') throw new QuantizeError('bad-input', `${printable(path)}: is gone`)
  return stat
}

/** @param known the file as an earlier run knew it: hashed again only if it may have changed */
const inputFile = (path: string, known: InputFile | undefined, files: Files): InputFile => {
  const { bytes, stamp } = statOf(path, files)
  return known?.stamp === stamp && known.bytes === bytes ? known : { ...hashFile(path, files), stamp }
}

/** @param known the inputs of an earlier run, to save reading what has not changed since */
const modelInputs = (
  { folder, files: weights }: Checkpoint,
  sample: CalibrationSample | undefined,
  known: Inputs | undefined,
  files: Files,
): Inputs['model'] => {
  const beside = ['config.json', ...(sample ? ['tokenizer.json'] : [])]
  const names = [...weights, ...beside.filter(name => files.stat(join(folder, name)))]
  return Object.fromEntries(
    names.map(name => [name, inputFile(join(folder, name), known && own(known.model, name), files)]),
  )
}

/** Of statistics. @param known as of inputsOf */
export const statisticsInputs = (
  checkpoint: Checkpoint,
  sample: CalibrationSample,
  known: Inputs | undefined,
  files: Files,
): Inputs => {
  const { sha256, samplesRequested: samples, seqLen, seed } = sample.report
  return {
    version,
    device: processorName(),
    recipe: { command: 'calibrate', samples, seqLen, seed },
    text: sha256,
    imatrix: null,
    stats: null,
    model: modelInputs(checkpoint, sample, known, files),
  }
}

/** @param known the inputs of an earlier run, to save reading what has not changed since */
export const inputsOf = (
  { recipe }: Plan,
  checkpoint: Checkpoint,
  sample: CalibrationSample | undefined,
  known: Inputs | undefined,
  files: Files,
): Inputs => {
  return {
    version,
    device: sample || recipe.stats !== null ? processorName() : null,
    // a text is known by its content: where it lies does not matter
    recipe: JSON.parse(
      JSON.stringify({
        ...recipe,
        imatrix: recipe.imatrix && 'given',
        stats: recipe.stats && 'given',
        calibration: recipe.calibration && { ...recipe.calibration, text: undefined },
      }),
    ),
    text: sample?.report.sha256 ?? null,
    imatrix: recipe.imatrix === null ? null : hashFile(recipe.imatrix, files).sha256,
    stats: recipe.stats === null ? null : hashFile(recipe.stats, files).sha256,
    model: modelInputs(checkpoint, sample, known, files),
  }
}

/** SHA-256 of each weight file, by base name. */
export const weightHashes = ({ model }: Inputs, { files }: Checkpoint): Readonly<Record<string, string>> =>
  Object.fromEntries(files.map(name => [name, model[name].sha256]))

/** @throws QuantizeError bad-input when a file of the model is not the one that was hashed */
export const checkUnchanged = ({ model }: Inputs, { folder }: Checkpoint, files: Files): void => {
  for (const [name, { stamp }] of Object.entries(model)) {
    const path = join(folder, name)
    if (statOf(path, files).stamp !== stamp)
      throw new QuantizeError('bad-input', `${printable(path)}: was changed or replaced while it was read; run again`)
  }
}

const shown = (value: unknown): string => printable(value === undefined ? 'absent' : JSON.stringify(value))

/** A record of a journal may have any key, `toString` too. */
const own = <T>(record: Readonly<Record<string, T>>, key: string): T | undefined =>
  Object.hasOwn(record, key) ? record[key] : undefined

const changedKeys = (
  what: string,
  before: Readonly<Record<string, unknown>>,
  after: Readonly<Record<string, unknown>>,
): string[] =>
  [...new Set([...Object.keys(before), ...Object.keys(after)])]
    .filter(key => JSON.stringify(own(before, key)) !== JSON.stringify(own(after, key)))
    .map(key => `${what}${printable(key)}: ${shown(own(before, key))}, now ${shown(own(after, key))}`)

/** What differs, in words; empty when a run may be resumed. */
export const whatChanged = (before: Inputs, after: Inputs): readonly string[] => {
  const plain = ({ version, device }: Inputs) => ({ version, device })
  const files = new Set([...Object.keys(before.model), ...Object.keys(after.model)])
  return [
    ...changedKeys('', plain(before), plain(after)),
    ...changedKeys('recipe.', before.recipe, after.recipe),
    ...(before.text === after.text ? [] : ['the calibration text']),
    ...(before.imatrix === after.imatrix ? [] : ['the importance matrix']),
    ...(before.stats === after.stats ? [] : ['the statistics']),
    ...[...files]
      .filter(name => own(before.model, name)?.sha256 !== own(after.model, name)?.sha256)
      .map(name => `the content of ${printable(name)}`),
  ]
}
