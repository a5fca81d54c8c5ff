/** From what a run knows to the report: the derived figures, each computed once. */
import type { LinearScheme, TensorInfo } from '../contracts.ts'
import { decibels, type WeightError } from './measure.ts'
import type { LinearReport, Report, TotalsReport } from './schema.ts'

/** Of a linear's bias. */
export interface BiasCorrection {
  /** What was added to it, [out], before it was rounded to its dtype: float32 in base64. */
  readonly shift: string
  /** Root mean square of how far it moved, as stored. */
  readonly change: number
}

/** What a run knows of one quantized linear, measured on the reopened output. */
export interface LinearFacts {
  readonly scheme: LinearScheme
  /** Of the source. */
  readonly tensor: string
  /** What it is stored as: codes, scales, zero points, indexes. */
  readonly tensors: readonly TensorInfo[]
  /** How it was rounded, and why not as asked; null: as asked. */
  readonly method: LinearReport['method']
  readonly fallback: string | null
  readonly error: WeightError
  readonly clippedFraction: number
  /** tr(ΔW G ΔWᵀ) / tr(W G Wᵀ), less what a corrected bias makes up for; null without calibration data. */
  readonly relativeOutputError: number | null
  /** null: its bias is as it was, or it has none. */
  readonly correction: BiasCorrection | null
  readonly damp: number | null
  readonly deadChannels: number | null
  /** Weights, and activations of its tap, that were not finite and taken as 0. */
  readonly zeroedWeights: number
  readonly zeroedActivations: number
  readonly seconds: number
}

export interface RunTotals {
  /** Elements of all tensors of the source. */
  readonly weights: number
  /** Bytes of all tensor data, before and after. */
  readonly bytesBefore: number
  readonly bytesAfter: number
  readonly seconds: number
  readonly peakMemoryBytes: number
}

export interface ReportFacts extends Omit<Report, 'schema' | 'linears' | 'totals'> {
  readonly linears: readonly LinearFacts[]
  readonly run: RunTotals
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)

const storedBits = (tensors: readonly TensorInfo[]): number => 8 * sum(tensors.map(({ bytes }) => bytes))

const linearReport = (facts: LinearFacts): LinearReport => {
  const { scheme, error } = facts
  return {
    name: scheme.name,
    tensor: facts.tensor,
    shape: [scheme.out, scheme.in],
    method: facts.method,
    fallback: facts.fallback,
    type: scheme.type ?? null,
    grid: scheme.grid,
    bits: scheme.bits,
    symmetric: scheme.symmetric,
    group: scheme.group,
    actOrder: scheme.actOrder,
    bitsPerWeight: storedBits(facts.tensors) / (scheme.out * scheme.in),
    weightMse: error.mse,
    sqnrDb: error.sqnrDb,
    relativeOutputError: facts.relativeOutputError,
    biasShift: facts.correction?.change ?? null,
    maxAbsError: error.maxAbsError,
    clippedFraction: facts.clippedFraction,
    damp: facts.damp,
    deadChannels: facts.deadChannels,
    zeroedWeights: facts.zeroedWeights,
    zeroedActivations: facts.zeroedActivations,
    seconds: facts.seconds,
  }
}

const totalsReport = (linears: readonly LinearFacts[], run: RunTotals): TotalsReport => {
  const quantizedWeights = sum(linears.map(({ scheme }) => scheme.out * scheme.in))
  return {
    linears: linears.length,
    quantizedWeights,
    weights: run.weights,
    bitsPerWeight: sum(linears.map(({ tensors }) => storedBits(tensors))) / (quantizedWeights || 1),
    bitsPerWeightOverall: (8 * run.bytesAfter) / (run.weights || 1),
    sqnrDb: decibels(sum(linears.map(({ error }) => error.energy)), sum(linears.map(({ error }) => error.errorEnergy))),
    bytesBefore: run.bytesBefore,
    bytesAfter: run.bytesAfter,
    seconds: run.seconds,
    peakMemoryBytes: run.peakMemoryBytes,
  }
}

export const buildReport = ({ linears, run, ...rest }: ReportFacts): Report => ({
  schema: 1,
  tool: rest.tool,
  recipe: rest.recipe,
  source: rest.source,
  calibration: rest.calibration,
  statistics: rest.statistics,
  transforms: rest.transforms,
  linears: linears.map(linearReport),
  kept: rest.kept,
  corrected: rest.corrected,
  dropped: rest.dropped,
  warnings: rest.warnings,
  totals: totalsReport(linears, run),
  outputs: rest.outputs,
})
