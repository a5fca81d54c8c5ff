/** quantize-report.json, version 1. docs/report.md explains every field; a test holds the two together. */
import { z } from 'zod'

const count = z.int().nonnegative()
const bytes = z.int().nonnegative()
const share = z.number().min(0).max(1)
const amount = z.number().nonnegative()
const sha256 = z.string().regex(/^[0-9a-f]{64}$/)

export const linearSchema = z.strictObject({
  name: z.string(),
  tensor: z.string(),
  shape: z.tuple([z.int().positive(), z.int().positive()]),
  method: z.enum(['gptq', 'rtn', 'repack']),
  fallback: z.string().nullable(),
  type: z.string().nullable(),
  grid: z.string(),
  bits: z.int().min(1).max(8),
  symmetric: z.boolean(),
  group: z.union([z.int().positive(), z.literal('channel'), z.literal('tensor'), z.literal('block')]),
  actOrder: z.enum(['none', 'static', 'g_idx']),
  bitsPerWeight: amount,
  weightMse: amount,
  sqnrDb: z.number().nullable(),
  relativeOutputError: amount.nullable(),
  /** Reports of earlier versions lack it. */
  biasShift: amount.nullable().default(null),
  maxAbsError: amount,
  clippedFraction: share,
  damp: amount.nullable(),
  deadChannels: count.nullable(),
  zeroedWeights: count,
  zeroedActivations: count,
  seconds: amount,
})

const reasonSchema = z.strictObject({ name: z.string(), reason: z.string() })

export const calibrationSchema = z.strictObject({
  text: z.string(),
  sha256,
  documents: count,
  samplesRequested: count,
  samplesUsed: count,
  tokensUsed: count,
  tokensDropped: count,
  seqLen: z.int().positive(),
  seed: z.int(),
})

/** What a transform made of one tap. */
export const transformSchema = z.strictObject({
  tap: z.string(),
  producer: z.string(),
  via: z.enum(['norm', 'linear']).nullable(),
  divided: z.array(z.string()),
  multiplied: z.array(z.string()),
  heads: z.tuple([z.int().positive(), z.int().positive()]).nullable(),
  factors: z.base64().nullable(),
  exponent: share.nullable(),
  /** Reports of earlier versions lack it. */
  weightExponent: share.nullable().default(null),
  smallest: z.number().positive(),
  largest: z.number().positive(),
  errorBefore: amount.nullable(),
  error: amount.nullable(),
  reason: z.string().nullable(),
})

/** A bias that a run changed. */
export const correctedSchema = z.strictObject({ name: z.string(), linear: z.string(), shift: z.base64() })

/** Where the statistics of taps come from. */
export const statisticsSchema = z.strictObject({
  of: z.enum(['quantized prefix', 'unquantized model']),
  file: z.string().nullable(),
  sha256: sha256.nullable(),
  texts: z.array(calibrationSchema),
})

export const totalsSchema = z.strictObject({
  linears: count,
  quantizedWeights: count,
  weights: count,
  bitsPerWeight: amount,
  bitsPerWeightOverall: amount,
  sqnrDb: z.number().nullable(),
  bytesBefore: bytes,
  bytesAfter: bytes,
  seconds: amount,
  peakMemoryBytes: bytes,
})

export const reportSchema = z.strictObject({
  schema: z.literal(1),
  tool: z.strictObject({ name: z.string(), version: z.string() }),
  recipe: z.record(z.string(), z.json()),
  source: z.strictObject({
    path: z.string(),
    files: z.array(z.string()),
    tensors: count,
    bytes,
    sha256: z.record(z.string(), sha256),
  }),
  calibration: calibrationSchema.nullable(),
  /** Reports of earlier versions lack the fields with a default. */
  statistics: statisticsSchema.nullable().default(null),
  transforms: z.array(transformSchema).default([]),
  linears: z.array(linearSchema),
  kept: z.array(reasonSchema),
  corrected: z.array(correctedSchema).default([]),
  dropped: z.array(reasonSchema),
  warnings: z.array(z.string()),
  totals: totalsSchema,
  outputs: z.record(z.string(), z.strictObject({ bytes, sha256 })),
})

export type Report = z.infer<typeof reportSchema>
export type LinearReport = z.infer<typeof linearSchema>
export type CalibrationReport = z.infer<typeof calibrationSchema>
export type CorrectedReport = z.infer<typeof correctedSchema>
export type TransformReport = z.infer<typeof transformSchema>
export type TotalsReport = z.infer<typeof totalsSchema>
