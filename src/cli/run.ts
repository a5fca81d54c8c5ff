/** Runs a recipe on a source: what `quantize` and `convert` share. */
import { availableParallelism } from 'node:os'
import { basename, join, resolve, sep } from 'node:path'
import { modelConfigs } from '../checkpoint/beside.ts'
import { modelName } from '../checkpoint/model-name.ts'
import { openCheckpoint } from '../checkpoint/open-checkpoint.ts'
import type { Checkpoint, Model } from '../contracts.ts'
import { isDecoded, openDecoded } from '../decoded-checkpoint.ts'
import { QuantizeError } from '../errors.ts'
import { unknownQuantization } from '../evaluate/load-model.ts'
import { configFiles, formatNamed } from '../format/index.ts'
import { nodeClock } from '../io/clock.ts'
import { type Files, nodeFiles } from '../io/files.ts'
import { memoryBytes } from '../io/machine.ts'
import { checkMemory, type MemoryPlan, planMemory } from '../memory.ts'
import { buildModel } from '../model/graph.ts'
import { runPlan } from '../pipeline.ts'
import { type Plan, planRun } from '../plan.ts'
import { defaults, type Recipe } from '../recipe.ts'
import { reportJson } from '../report/json.ts'
import { planDocument, planTable } from '../report/plan-table.ts'
import type { Report } from '../report/schema.ts'
import { reportTable } from '../report/table.ts'
import { isPublished } from '../run/journal.ts'
import type { ConvertOptions, QuantizeOptions } from './parse.ts'
import type { Ui } from './ui.ts'

type Config = Readonly<Record<string, unknown>> | undefined

export interface Source {
  readonly checkpoint: Checkpoint
  readonly config: Config
}

const defaultOutput = (name: string, { method, grid, bits, group, format }: Recipe): string => {
  if (method === 'convert') return `${name}-${format.replace(':', '-')}`
  const { mix } = formatNamed(format).facts
  if (mix) return `${name}-${method}-${mix.name}`
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

/** @throws QuantizeError unsupported when the checkpoint declares a quantization that no format here reads */
export const openSource = (path: string, files: Files): Source => {
  const stored = openCheckpoint(path, files)
  try {
    const configs = modelConfigs(stored, configFiles, files)
    const config = configs['config.json'] as Config
    const checkpoint = openDecoded(stored, configs)
    if (!isDecoded(checkpoint) && config?.quantization_config)
      throw unknownQuantization(join(stored.folder, 'config.json'), config.quantization_config)
    return { checkpoint, config }
  } catch (error) {
    stored.close()
    throw error
  }
}

/** The architecture, or why there is none where the method does not need one. */
const architectureOf = (checkpoint: Checkpoint, config: Config, needed: boolean): Model | string => {
  const configFile = join(checkpoint.folder, 'config.json')
  if (!config) return `no config.json stands beside ${checkpoint.path}`
  if (needed) return buildModel(config, checkpoint.tensors, configFile)
  try {
    return buildModel(config, checkpoint.tensors, configFile)
  } catch (error) {
    if (error instanceof QuantizeError && error.code === 'unsupported') return error.message.split('; ')[0]
    throw error
  }
}

/** Options of a run that are not part of its recipe. */
type RunOptions = QuantizeOptions | ConvertOptions

/** A run that nothing known beforehand stands in the way of. */
interface Prepared {
  readonly recipe: Recipe
  readonly plan: Plan
  readonly memory: MemoryPlan
  /** As the user knows it. */
  readonly named: string
  readonly threads: number
}

/** Files that a recipe names, besides the model. */
const namedFiles = ({ calibration, imatrix, stats }: Recipe): readonly string[] =>
  [calibration?.text === defaults.calib ? null : calibration?.text, imatrix, stats].filter(
    path => typeof path === 'string',
  )

/** @throws QuantizeError for whatever would end the run before its work begins */
const prepare = (recipe: Recipe, several: boolean, { checkpoint, config }: Source, options: RunOptions): Prepared => {
  const missing = namedFiles(recipe).find(path => !nodeFiles.stat(path))
  if (missing !== undefined) throw new QuantizeError('bad-input', `${missing}: no such file or folder`)
  const plan = planRun(
    checkpoint,
    architectureOf(checkpoint, config, recipe.calibration !== undefined || recipe.stats !== null),
    recipe,
  )
  const usual = basename(defaultOutput(modelName(checkpoint, nodeFiles), recipe))
  const named = outputOf(options.output ?? usual, recipe, several)
  const threads = options.threads ?? availableParallelism()
  const memory = planMemory(plan, options.maxMemory ?? Math.floor(0.8 * memoryBytes()), threads)
  if (!options.dryRun) {
    checkOutput(resolve(named), checkpoint, options.overwrite, nodeFiles)
    checkMemory(memory)
  }
  return { recipe, plan, memory, named, threads }
}

/** Returns what `--json` prints. */
const runPrepared = async (
  { recipe, plan, memory, named, threads }: Prepared,
  several: boolean,
  { checkpoint, config }: Source,
  options: RunOptions,
  ui: Ui,
): Promise<object> => {
  const output = resolve(named)
  if (options.dryRun) {
    if (!options.json) ui.data(planTable(plan, memory, output))
    return planDocument(plan, memory, output)
  }
  const context = { files: nodeFiles, clock: nodeClock, threads, memory, progress: ui.report, signal: ui.signal }
  const rules = { overwrite: options.overwrite, resume: options.resume }
  const report = await runPlan(plan, checkpoint, config, output, rules, context)
  if (options.report) nodeFiles.writeText(outputOf(options.report, recipe, several), reportJson(report))
  tellReport(report, named, ui)
  return { output: named, report }
}

const tellReport = (report: Report, output: string, ui: Ui): void =>
  ui.print(
    `\n${reportTable(report, { width: ui.columns, style: { heading: ui.style.bold, warning: ui.style.yellow } })}\n\nwritten to ${output}`,
  )

/** Runs recipes one after another, once all could begin; the document of one, or a list of them, goes to `--json`. */
export const runRecipes = async (
  recipes: readonly Recipe[],
  source: Source,
  options: RunOptions,
  ui: Ui,
): Promise<readonly Report[]> => {
  const several = recipes.length > 1
  const prepared = recipes.map(recipe => prepare(recipe, several, source, options))
  const documents: object[] = []
  for (const one of prepared) documents.push(await runPrepared(one, several, source, options, ui))
  if (options.json) ui.json(documents.length > 1 ? documents : documents[0])
  return documents.flatMap(document => ('report' in document ? [document.report as Report] : []))
}
