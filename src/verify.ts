/** Whether an output is still what its report says, from the bytes on disk alone. */
import { basename, join } from 'node:path'
import { modelConfigs } from './checkpoint/beside.ts'
import { openCheckpoint } from './checkpoint/open-checkpoint.ts'
import type { Checkpoint } from './contracts.ts'
import { openDecoded } from './decoded-checkpoint.ts'
import type { Kernels } from './engine/kernel/pool.ts'
import { configFiles } from './format/index.ts'
import type { Files } from './io/files.ts'
import { printable } from './io/printable.ts'
import { filesIn, hashFile } from './io/whole-file.ts'
import { maxReportBytes, parseReport, reportName } from './report/json.ts'
import type { Report } from './report/schema.ts'
import { checkAgainst } from './verify/against-source.ts'
import { refuse } from './verify/difference.ts'

export interface Verification {
  /** Files whose size and SHA-256 are those of the report. */
  readonly files: number
  /** Files of the folder that the report does not name. */
  readonly unlisted: readonly string[]
  /** Linears whose errors were computed again from the source, and are those of the report; null without a source. */
  readonly linears: number | null
  /** Tensors that are bit for bit those of the source; null without a source. */
  readonly kept: number | null
  /** Biases that are bit for bit those of the source with the shifts of the report; null without a source. */
  readonly corrected: number | null
}

const isPlainName = (name: string): boolean => name !== '' && name !== '.' && name !== '..' && basename(name) === name

/** @throws QuantizeError bad-input at the first file that is missing or differs */
const checkFiles = (folder: string, { outputs }: Report, files: Files, each: (name: string) => void): void => {
  for (const [name, { bytes, sha256 }] of Object.entries(outputs)) {
    const path = join(folder, name)
    if (!name.split('/').every(isPlainName))
      refuse(join(folder, reportName), `names ${printable(name)}, which is no plain file name`)
    const found = files.stat(path)
    if (found?.kind !== 'file') refuse(path, 'is missing; the report lists it')
    if (found!.bytes !== bytes) refuse(path, `has ${found!.bytes} bytes; the report says ${bytes}`)
    const actual = hashFile(path, files).sha256
    if (actual !== sha256) refuse(path, `has SHA-256 ${actual}; the report says ${sha256}`)
    each(name)
  }
}

/**
 * Reads an output again: sizes and hashes of its files against its report and, given the source, the error of every linear (to the bit)
 * and every tensor that was kept or corrected. The output errors are not computed again: they need the calibration pass.
 * @param folder an output of `quantize`
 * @param each after each file, linear and tensor
 * @throws QuantizeError bad-input at the first difference, with both values
 */
export const verify = async (
  folder: string,
  sourcePath: string | undefined,
  createKernels: () => Promise<Kernels>,
  files: Files,
  each: (name: string) => void,
): Promise<Verification> => {
  const reportPath = join(folder, reportName)
  if (files.stat(reportPath)?.kind !== 'file')
    refuse(folder, `holds no ${reportName}; verify reads what quantize wrote`)
  const report = parseReport(files.readText(reportPath, maxReportBytes), reportPath)
  checkFiles(folder, report, files, each)
  const unlisted = filesIn(folder, files).filter(name => name !== reportName && !Object.hasOwn(report.outputs, name))
  const counted = { files: Object.keys(report.outputs).length, unlisted }
  if (sourcePath === undefined) return { ...counted, linears: null, kept: null, corrected: null }
  const opened: Checkpoint[] = []
  let kernels: Kernels | undefined
  try {
    const plain = openCheckpoint(sourcePath, files)
    opened.push(plain)
    const source = openDecoded(plain, modelConfigs(plain, configFiles, files))
    const output = openCheckpoint(folder, files)
    opened.push(output)
    kernels = await createKernels()
    await checkAgainst(kernels, source, output, report, files, each)
    const { linears, kept, corrected } = report
    return { ...counted, linears: linears.length, kept: kept.length, corrected: corrected.length }
  } finally {
    await kernels?.close()
    for (const checkpoint of opened) checkpoint.close()
  }
}
