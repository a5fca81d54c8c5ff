import { availableParallelism } from 'node:os'
import { basename, extname, join, resolve, sep } from 'node:path'
import { openCheckpoint } from '../../checkpoint/open-checkpoint.ts'
import { readConfigs } from '../../checkpoint/read-json.ts'
import type { Checkpoint, Configs, Model } from '../../contracts.ts'
import { QuantizeError } from '../../errors.ts'
import { unknownQuantization } from '../../evaluate/load-model.ts'
import { configFiles, detectFormat } from '../../format/index.ts'
import { nodeClock } from '../../io/clock.ts'
import { type Files, nodeFiles } from '../../io/files.ts'
import { memoryBytes } from '../../io/machine.ts'
import { isPublished } from '../../journal.ts'
import { checkMemory, planMemory } from '../../memory.ts'
import { methods } from '../../method/index.ts'
import { buildModel } from '../../model/graph.ts'
import { runPlan } from '../../pipeline.ts'
import { planRun } from '../../plan.ts'
import { type Recipe, resolveRecipe } from '../../recipe.ts'
import { reportJson } from '../../report/json.ts'
import { planDocument, planTable } from '../../report/plan-table.ts'
import type { Report } from '../../report/schema.ts'
import { reportTable } from '../../report/table.ts'
import type { QuantizeOptions } from '../parse.ts'
import type { Ui } from '../ui.ts'

type Config = Readonly<Record<string, unknown>> | undefined

const sourceConfigOf = (configs: Configs): Config => configs['config.json'] as Config

/** The model's name: its folder's, unless the file has a name of its own. */
const modelName = (checkpoint: Checkpoint, files: Files): string => {
  const file = basename(checkpoint.path)
  const own = extname(file) === '.safetensors' && !/^model(-\d+-of-\d+)?\.safetensors$/.test(file)
  return own ? file.slice(0, -'.safetensors'.length) : basename(files.realPath(checkpoint.folder))
}

const defaultOutput = (name: string, { method, grid, bits, group }: Recipe): string => {
  const codes = grid === 'int' ? `${bits}bit` : grid
  return `${name}-${method}-${codes}${group === 'implied' ? '' : `-${typeof group === 'number' ? `g${group}` : group}`}`
}

/** The output of one of several formats. */
const outputOf = (output: string, { format }: Recipe, several: boolean): string =>
  several ? `${output}-${format.replace(':', '-')}` : output

/** @throws QuantizeError bad-option when the output stands in the way, or would replace what is read */
const checkOutput = (output: string, checkpoint: Checkpoint, overwrite: boolean, files: Files): void => {
  if (!files.stat(output)) return
  if (!overwrite && !isPublished(output, files))
    throw new QuantizeError('bad-option', `${output} exists; give another -o, or --overwrite to replace it`)
  const target = files.realPath(output)
  const source = files.realPath(checkpoint.folder)
  if (source === target || source.startsWith(target + sep))
    throw new QuantizeError('bad-option', `${output} holds the model that is read; give another -o`)
}

/** The architecture, or why there is none where the method does not need one. */
const architectureOf = (checkpoint: Checkpoint, configs: Configs, recipe: Recipe): Model | string => {
  const configFile = join(checkpoint.folder, 'config.json')
  const config = sourceConfigOf(configs)
  if (!config) return `no config.json stands beside ${checkpoint.path}`
  const detected = detectFormat(checkpoint.tensors, configs, checkpoint.folder)
  if (detected)
    throw new QuantizeError(
      'unsupported',
      `${checkpoint.path}: quantized already, in format ${detected.format.name}; give the original model`,
    )
  if (config.quantization_config) throw unknownQuantization(configFile, config.quantization_config)
  if (methods[recipe.method].needs.length > 0) return buildModel(config, checkpoint.tensors, configFile)
  try {
    return buildModel(config, checkpoint.tensors, configFile)
  } catch (error) {
    if (error instanceof QuantizeError && error.code === 'unsupported') return error.message.split('; ')[0]
    throw error
  }
}

/** Quantizes into one format. Returns what `--json` prints. */
const quantizeInto = async (
  recipe: Recipe,
  several: boolean,
  checkpoint: Checkpoint,
  options: QuantizeOptions,
  ui: Ui,
): Promise<object> => {
  const files = nodeFiles
  const configs = readConfigs(checkpoint.folder, configFiles, files)
  const plan = planRun(checkpoint, architectureOf(checkpoint, configs, recipe), recipe)
  const named = outputOf(options.output ?? defaultOutput(modelName(checkpoint, files), recipe), recipe, several)
  const output = resolve(named)
  const threads = options.threads ?? availableParallelism()
  const memory = planMemory(plan, options.maxMemory ?? Math.floor(0.8 * memoryBytes()), threads)
  if (options.dryRun) {
    if (!options.json) ui.data(planTable(plan, memory, output))
    return planDocument(plan, memory, output)
  }
  checkOutput(output, checkpoint, options.overwrite, files)
  checkMemory(memory)
  const context = { files, clock: nodeClock, threads, memory, progress: ui.report, signal: ui.signal }
  const rules = { overwrite: options.overwrite, resume: options.resume }
  const report = await runPlan(plan, checkpoint, sourceConfigOf(configs), output, rules, context)
  if (options.report) files.writeText(outputOf(options.report, recipe, several), reportJson(report))
  tellReport(report, options.output === undefined ? basename(output) : named, ui)
  return { output: options.output === undefined ? basename(output) : named, report }
}

/** The document of one format; of several, a list of them. */
const quantizeAll = async (options: QuantizeOptions, ui: Ui): Promise<readonly object[]> => {
  const { format: formats, ...request } = options
  const recipes = (formats ?? [undefined]).map(format => resolveRecipe({ ...request, format }))
  const checkpoint = openCheckpoint(options.model, nodeFiles)
  try {
    const documents: object[] = []
    for (const recipe of recipes)
      documents.push(await quantizeInto(recipe, recipes.length > 1, checkpoint, options, ui))
    return documents
  } finally {
    checkpoint.close()
  }
}

export const quantize = async (options: QuantizeOptions, ui: Ui): Promise<void> => {
  const documents = await quantizeAll(options, ui)
  if (options.json) ui.json(documents.length > 1 ? documents : documents[0])
  const reports = documents.flatMap(document => ('report' in document ? [document.report as Report] : []))
  if (options.strict) for (const report of reports) checkFallbacks(report)
}

const tellReport = (report: Report, output: string, ui: Ui): void =>
  ui.print(
    `\n${reportTable(report, { width: ui.columns, style: { heading: ui.style.bold, warning: ui.style.yellow } })}\n\nwritten to ${output}`,
  )

const checkFallbacks = ({ linears }: Report): void => {
  const fallen = linears.filter(({ fallback }) => fallback !== null)
  if (fallen.length > 0)
    throw new QuantizeError(
      'gate',
      `--strict: ${fallen.length} of ${linears.length} linears fell back to rtn; the first: ${fallen[0].name}: ${fallen[0].fallback}`,
    )
}
